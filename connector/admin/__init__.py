"""What an operator asks of the connector from a command line. One file a command; none of them needs a worker."""
