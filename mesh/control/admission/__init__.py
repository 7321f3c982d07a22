"""Whether a resource of the mesh may be stored: what the validating webhook asks."""

from mesh.control.admission.validation import Admission, Verdict, validate

__all__ = ["Admission", "Verdict", "validate"]
