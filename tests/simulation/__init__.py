"""The real relay on the real spool and a clock that is turned: hours of a busy gateway in minutes, without sockets."""
