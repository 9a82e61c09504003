"""What all rooms stand on: a command and its user, devices, whole files, how things are drawn."""
