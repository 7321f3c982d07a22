"""The commands of `gameday mesh`, by the names that Linkerd's users know.

Each is imported only when it is called: the Kubernetes client alone takes a third of a second to import. A command
returns its exit code: 0 done, 1 a check failed; what the user can mend raises `CommandFailed` (exit code 2).
"""

from __future__ import annotations

from cyclopts import App

from mesh.commands.options import OPTIONS

app = App(
    name="mesh",
    help="Install, inject and operate the mesh on Kubernetes.",
    help_format="rst",
    default_parameter=OPTIONS,
)

app.command("mesh.commands.images:images", name="images")
app.command("mesh.commands.check.command:check", name="check")
app.command("mesh.commands.identity:identity", name="identity")
app.command("mesh.commands.diagnostics:app", name="diagnostics")
app.command("mesh.commands.install:install", name="install")
app.command("mesh.commands.upgrade:upgrade", name="upgrade")
app.command("mesh.commands.uninstall:uninstall", name="uninstall")
app.command("mesh.commands.uninstall:prune", name="prune")
app.command("mesh.commands.chart:chart", name="chart")
app.command("mesh.commands.authz:authz", name="authz")
app.command("mesh.commands.profile:profile", name="profile")
app.command("mesh.commands.stat:stat", name="stat")
app.command("mesh.commands.stat_inbound:stat_inbound", name="stat-inbound")
app.command("mesh.commands.stat_outbound:stat_outbound", name="stat-outbound")
app.command("mesh.commands.top:top", name="top")
app.command("mesh.commands.tap:tap", name="tap")
app.command("mesh.commands.edges:edges", name="edges")
app.command("mesh.commands.routes:routes", name="routes")
app.command("mesh.commands.dashboard:dashboard", name="dashboard")
app.command("mesh.commands.rotate:create_anchor", name="create-anchor")
app.command("mesh.commands.rotate:rotate_issuer", name="rotate-issuer")
app.command("mesh.commands.rotate:trust_anchors", name="trust-anchors")
app.command("mesh.commands.inject:inject", name="inject")
app.command("mesh.commands.inject:uninject", name="uninject")


def load_commands() -> None:
    """Imports all of them, so that the list of commands says what each does."""
    for name in list(app):
        app[name]
