"""What each command does: a module per subject, a function per command, of the same name."""
