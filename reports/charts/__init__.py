"""Charts as inline SVG, written by hand: no plotting library, no script, nothing fetched.

`svg` has the primitives, `stage` the shared time axis with its fault bands; each other file is one chart. Colours are
CSS classes, so one drawing serves light, dark and paper. Marks differ in shape as well as in colour.
"""
