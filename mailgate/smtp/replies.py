"""What the session says for itself; filters bring their own replies."""

from __future__ import annotations

from mailgate.reply import Reply

# Said as they stand, so they are octets already.
SENDER_OK = Reply.of(250, "2.1.0", "Sender OK").to_bytes()
PRIORITY_LOWERED = Reply.of(250, "2.3.6", "0 is the priority, without authentication").to_bytes()
RECIPIENT_OK = Reply.of(250, "2.1.5", "Recipient OK").to_bytes()
GO_AHEAD = Reply.of(354, "", "End data with <CR><LF>.<CR><LF>").to_bytes()
OK = Reply.of(250, "2.0.0", "OK").to_bytes()
CANNOT_VERIFY = Reply.of(252, "2.1.5", "Cannot verify an address, but will take mail for it").to_bytes()

BYE = Reply.of(221, "2.0.0", "Bye")

# The peer's mistakes.
UNKNOWN = Reply.of(500, "5.5.1", "Command not recognized")
NOT_IMPLEMENTED = Reply.of(502, "5.5.1", "Command not implemented")
NO_ARGUMENT = Reply.of(501, "5.5.4", "This command takes no argument")
VERIFY_WHOM = Reply.of(501, "5.5.4", "Say whom to verify")
SAY_EHLO = Reply.of(500, "5.5.1", "This is SMTP: say EHLO")
SAY_LHLO = Reply.of(500, "5.5.1", "This is LMTP: say LHLO")
NO_GREETING = Reply.of(503, "5.5.1", "Say hello first")
NO_MAIL = Reply.of(503, "5.5.1", "Say MAIL first")
NESTED_MAIL = Reply.of(503, "5.5.1", "A transaction is under way")
NO_RECIPIENT = Reply.of(554, "5.5.1", "No valid recipients")
NO_RECIPIENT_LMTP = Reply.of(503, "5.5.1", "No valid recipients")
TOO_LARGE = Reply.of(552, "5.3.4", "The message is larger than this server accepts")
LINE_TOO_LONG = Reply.of(500, "5.5.2", "Command line too long")
BARE_LF = Reply.of(500, "5.5.2", "Lines must end with CR LF")
NOT_SMTP = Reply.of(421, "4.7.0", "This is a mail server")
CONTENT_TOO_EARLY = Reply.of(421, "4.5.1", "Content before the 354 reply")
ENDLESS = Reply.of(421, "4.3.4", "Far too large, closing the connection")

CHUNKS_ONLY = Reply.of(503, "5.5.1", "BINARYMIME content comes by BDAT")
CHUNKS_BEGUN = Reply.of(503, "5.5.1", "Content has begun: BDAT, or RSET")
#: To whoever brings a copy of mail that another gateway handles: nobody is to be told of it.
COPY_IN_CLEAR = Reply.of(454, "4.7.0", "Copies come under TLS only here")
CHUNK_TOO_LARGE = Reply.of(552, "5.3.4", "The chunk is larger than this server accepts")
HOLD_TOO_LONG = Reply.of(501, "5.5.4", "That is further ahead than this server holds mail")

# TLS, AUTH, and who is in front of us.
TLS_FIRST = Reply.of(530, "5.7.0", "Must issue a STARTTLS command first")
TLS_ALREADY = Reply.of(503, "5.5.1", "TLS is there already")
TLS_TOO_LATE = Reply.of(503, "5.5.1", "Not after AUTH")
TLS_IMPATIENT = Reply.of(421, "4.7.0", "No commands behind STARTTLS before the handshake")
CERTIFICATE_NEEDED = Reply.of(530, "5.7.0", "A client certificate that is known here is needed")
TLS_GO_AHEAD = Reply.of(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED = Reply.of(235, "2.7.0", "Authentication successful")
AUTHENTICATED_ALREADY = Reply.of(503, "5.5.1", "Authenticated already")
AUTH_HOW = Reply.of(501, "5.5.4", "Syntax: AUTH mechanism [response]")
AUTH_FIRST = Reply.of(530, "5.7.0", "Authentication required")
AUTH_NEEDS_TLS = Reply.of(538, "5.7.11", "This mechanism needs TLS")
AUTH_NOT_NOW = Reply.of(503, "5.5.1", "Not within a transaction")
UNKNOWN_MECHANISM = Reply.of(504, "5.5.4", "Authentication mechanism is not known")
AUTH_CANCELLED = Reply.of(501, "5.7.0", "Authentication given up")
AUTH_LINE_TOO_LONG = Reply.of(500, "5.5.6", "Authentication exchange line is too long")
AUTH_FAILED = Reply.of(535, "5.7.8", "Authentication credentials invalid")
AUTH_UNAVAILABLE = Reply.of(454, "4.7.0", "Temporary authentication failure")
AUTH_TOO_OFTEN = Reply.of(454, "4.7.0", "Too many failures, try again later")
TOO_MANY_AUTH_FAILURES = Reply.of(421, "4.7.0", "Too many authentication failures")
NOT_TRUSTED = Reply.of(550, "5.7.0", "This client may not say so")
NOT_IN_TRANSACTION = Reply.of(503, "5.5.1", "Not within a transaction")
ETRN_WHOM = Reply.of(501, "5.5.4", "Syntax: ETRN domain")
ETRN_SUBDOMAINS = Reply.of(501, "5.5.4", "One domain at a time, without @")
ETRN_NOT_YOU = Reply.of(459, "4.7.0", "This server turns its queue for clients that may relay only")
ETRN_NOTHING = Reply.of(251, "2.0.0", "OK, no messages are waiting")
ETRN_FAILED = Reply.of(458, "4.3.0", "Unable to start the queue now")

# Bounds.
TOO_MANY_RECIPIENTS = Reply.of(452, "4.5.3", "Too many recipients")
TOO_MANY_ERRORS = Reply.of(421, "4.7.0", "Too many errors")
TOO_MANY_COMMANDS = Reply.of(421, "4.7.0", "Too many commands without a message")
TOO_MANY_MESSAGES = Reply.of(421, "4.7.0", "Enough messages for one connection")
TOO_MANY_CONNECTIONS = Reply.of(421, "4.7.0", "Too many connections, try again later")
TOO_MANY_FROM_CLIENT = Reply.of(421, "4.7.0", "Too many connections from your address")
TIME_OUT = Reply.of(421, "4.4.2", "Time-out, closing the connection")

ELSEWHERE = Reply.of(452, "4.5.3", "This recipient needs a transaction of its own")

# Ours.
LOCAL_ERROR = Reply.of(451, "4.3.0", "Local error, try again later")
CRASHED = Reply.of(421, "4.3.0", "Local error, try again later")
CLOSING = Reply.of(421, "4.3.2", "Closing down, try again later")
