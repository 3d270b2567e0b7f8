"""What happened, told to whoever wants to know: the hub, the log, and the history that `mailgate why` reads."""
