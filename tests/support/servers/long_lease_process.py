"""The real server with a lease of the scheduler that ends in no test: another node follows only if it is given up."""

import sys

from offbeat import cli
from offbeat_server.scheduler import lease

if __name__ == "__main__":
    lease.LIFE_S = lease.TRUST_S = 3_600.0
    sys.exit(cli.main())
