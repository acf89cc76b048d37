"""Doctor: checks this machine, its node and the cluster, and says how to mend what is wrong.

A check is a pure function of what was read: outputs of commands, files, measurements. `examination` reads. The checks
of macOS are tested on outputs that were written after the documentation of the commands: no Mac has run them yet.
"""

from cluster.doctor.examination import examine
from cluster.doctor.finding import Finding, State

__all__ = ["Finding", "State", "examine"]
