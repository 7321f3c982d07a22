"""`python -m mesh.control identity|destination|policy|all`."""

import sys

from mesh.control.process import main

sys.exit(main())
