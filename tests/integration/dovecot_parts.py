"""A real Dovecot, with mailboxes and users of the test's own."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from parts import Part, free_port, greets, program

__all__ = ["Dovecot"]


class Dovecot(Part):
    """A private Dovecot: LMTP on a port and on a unix socket, into Maildirs under `mail/DOMAIN/LOCALPART/`.

    It serves IMAP on `imap_port` where `imap` is set. Its auth service, on a port and on a unix socket too, knows
    `users` with the password "secret"; `fields` are their extra fields (allow_nets=...).
    """

    name = "dovecot"

    def __init__(
        self,
        directory: Path,
        users: Sequence[str],
        fields: Mapping[str, str] = MappingProxyType({}),
        *,
        imap: bool = False,
    ) -> None:
        super().__init__(directory)
        self.port, self.auth_port, self.imap_port = free_port(), free_port(), free_port()
        self.imap = imap
        self.users = users
        self.fields = fields
        self.mail = directory / "mail"
        self.socket, self.auth_socket = directory / "run" / "lmtp", directory / "run" / "auth-client"

    def prepare(self) -> Sequence[str]:
        self.mail.mkdir(exist_ok=True)
        shutil.chown(self.mail, "nobody")
        users = self.directory / "users"
        users.write_text("".join(f"{user}:{{PLAIN}}secret::::::{self.fields.get(user, '')}\n" for user in self.users))
        configuration = self.directory / "dovecot.conf"
        configuration.write_text(
            _DOVECOT.replace("@DIR@", str(self.directory))
            .replace("@PORT@", str(self.port))
            .replace("@AUTH_PORT@", str(self.auth_port))
            .replace("@UID@", str(pwd.getpwnam("nobody").pw_uid))
            + (_IMAP.replace("@PORT@", str(self.imap_port)) if self.imap else "")
        )
        return [program("dovecot"), "-F", "-c", str(configuration)]

    def is_ready(self) -> bool:
        return greets(self.port)


_DOVECOT = """\
base_dir = @DIR@/run
state_dir = @DIR@/run
instance_name = mailgate-test
protocols = lmtp
listen = 127.0.0.1
log_path = /dev/stderr
ssl = no
first_valid_uid = 1
mail_location = maildir:@DIR@/mail/%d/%n
default_login_user = dovenull
default_internal_user = dovecot
auth_mechanisms = plain login scram-sha-256
auth_failure_delay = 0
passdb {
  driver = passwd-file
  args = username_format=%u @DIR@/users
}
userdb {
  driver = passwd-file
  args = username_format=%u @DIR@/users
  override_fields = uid=@UID@ gid=@UID@ home=@DIR@/mail/%d/%n
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = @PORT@
  }
  unix_listener lmtp {
    mode = 0666
  }
}
service auth {
  inet_listener {
    address = 127.0.0.1
    port = @AUTH_PORT@
  }
  unix_listener auth-client {
    mode = 0666
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
recipient_delimiter = +
lmtp_save_to_detail_mailbox = no
protocol lmtp {
  postmaster_address = postmaster@dovecot.test
}
"""

_IMAP = """\
protocols = lmtp imap
disable_plaintext_auth = no
service imap-login {
  inet_listener imap {
    address = 127.0.0.1
    port = @PORT@
  }
  inet_listener imaps {
    port = 0
  }
}
"""
