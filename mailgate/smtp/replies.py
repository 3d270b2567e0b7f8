"""What the session says for itself; filters bring their own replies."""

from __future__ import annotations

from mailgate.reply import Reply

# Said as they stand, so they are octets already.
SENDER_OK = Reply.of(250, "2.1.0", "Sender OK").to_bytes()
RECIPIENT_OK = Reply.of(250, "2.1.5", "Recipient OK").to_bytes()
GO_AHEAD = Reply.of(354, "", "End data with <CR><LF>.<CR><LF>").to_bytes()
OK = Reply.of(250, "2.0.0", "OK").to_bytes()
HELP = Reply.of(214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT").to_bytes()
HELP_LMTP = Reply.of(214, "2.0.0", "LHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT").to_bytes()
CANNOT_VERIFY = Reply.of(252, "2.1.5", "Cannot verify an address, but will take mail for it").to_bytes()

BYE = Reply.of(221, "2.0.0", "Bye")

# The peer's mistakes.
UNKNOWN = Reply.of(500, "5.5.1", "Command not recognized")
NOT_IMPLEMENTED = Reply.of(502, "5.5.1", "Command not implemented")
NO_ARGUMENT = Reply.of(501, "5.5.4", "This command takes no argument")
VERIFY_WHOM = Reply.of(501, "5.5.4", "Say whom to verify")
NEEDS_EHLO = Reply.of(555, "5.5.4", "Parameters need EHLO")
SAY_EHLO = Reply.of(500, "5.5.1", "This is SMTP: say EHLO")
SAY_LHLO = Reply.of(500, "5.5.1", "This is LMTP: say LHLO")
NO_GREETING = Reply.of(503, "5.5.1", "Say hello first")
NO_MAIL = Reply.of(503, "5.5.1", "Say MAIL first")
NESTED_MAIL = Reply.of(503, "5.5.1", "A transaction is under way")
NO_RECIPIENT = Reply.of(554, "5.5.1", "No valid recipients")
TOO_LARGE = Reply.of(552, "5.3.4", "The message is larger than this server accepts")
LINE_TOO_LONG = Reply.of(500, "5.5.2", "Command line too long")
BARE_LF = Reply.of(500, "5.5.2", "Lines must end with CR LF")
NOT_SMTP = Reply.of(421, "4.7.0", "This is a mail server")
CONTENT_TOO_EARLY = Reply.of(421, "4.5.1", "Content before the 354 reply")
ENDLESS = Reply.of(421, "4.3.4", "Far too large, closing the connection")

# Bounds.
TOO_MANY_RECIPIENTS = Reply.of(452, "4.5.3", "Too many recipients")
TOO_MANY_ERRORS = Reply.of(421, "4.7.0", "Too many errors")
TOO_MANY_COMMANDS = Reply.of(421, "4.7.0", "Too many commands without a message")
TOO_MANY_MESSAGES = Reply.of(421, "4.7.0", "Enough messages for one connection")
TOO_MANY_CONNECTIONS = Reply.of(421, "4.7.0", "Too many connections, try again later")
TOO_MANY_FROM_CLIENT = Reply.of(421, "4.7.0", "Too many connections from your address")
TIME_OUT = Reply.of(421, "4.4.2", "Time-out, closing the connection")

# Ours.
LOCAL_ERROR = Reply.of(451, "4.3.0", "Local error, try again later")
CRASHED = Reply.of(421, "4.3.0", "Local error, try again later")
CLOSING = Reply.of(421, "4.3.2", "Closing down, try again later")
