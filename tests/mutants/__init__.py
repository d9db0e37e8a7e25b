"""Hand-made mutants: each breaks one rule, and the test beside it must notice.

`python -m tests.mutants` works in temporary copies and says which live; not part of `make test`: it takes minutes.
"""

from tests.mutants.core import CORE
from tests.mutants.kafka import KAFKA
from tests.mutants.shard import SHARD

MUTANTS = (*CORE, *SHARD, *KAFKA)
