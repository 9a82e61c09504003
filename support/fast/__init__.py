"""The training step in compiled functions, which does what net.py says or steps aside."""
