"""Send one mail to the demonstration gateway: python etc/demo-send.py RECIPIENT [PORT]."""

import smtplib
import sys
from email.message import EmailMessage

if len(sys.argv) < 2:
    sys.exit("usage: demo-send.py RECIPIENT [PORT]")
message = EmailMessage()
message["From"] = "Ann <ann@example.net>"
message["To"] = sys.argv[1]
message["Subject"] = "Hello"
message.set_content("Sent through mailgate.\n")
port = int(sys.argv[2]) if len(sys.argv) > 2 else 2525
try:
    with smtplib.SMTP("127.0.0.1", port) as gateway:
        gateway.ehlo("client.example.net")
        for step in (lambda: gateway.mail("ann@example.net"), lambda: gateway.rcpt(sys.argv[1])):
            code, text = step()
            print(code, text.decode())
            if code >= 400:
                sys.exit(1)
        code, text = gateway.data(message.as_bytes(policy=message.policy.clone(linesep="\r\n")))
        print(code, text.decode())
except OSError as error:
    sys.exit(f"no gateway on 127.0.0.1:{port}: {error} (make run starts one)")
