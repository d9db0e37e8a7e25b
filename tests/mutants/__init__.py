"""Hand-made mutants: each one breaks a rule, and its test must fail.

`python -m tests.mutants` works in temporary copies and prints which mutants survive. It is not part of `make test`
because it takes minutes.
"""

from tests.mutants.core import CORE
from tests.mutants.kafka import KAFKA
from tests.mutants.shard import SHARD

MUTANTS = (*CORE, *SHARD, *KAFKA)
