"""Commands for operators, one file per command. None of them needs a running worker."""
