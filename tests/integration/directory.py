"""A real slapd with people in it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from parts import Part, free_port, program
from secured import Trust

__all__ = ["ADMIN", "ADMIN_PASSWORD", "BASE", "Slapd"]

BASE = "dc=corp,dc=test"
ADMIN, ADMIN_PASSWORD = f"cn=admin,{BASE}", "of the gateway"


class Slapd(Part):
    """slapd with `people`: password by uid, in clear text; each has the addresses UID@corp.test and UID.too@corp.test.

    It speaks LDAP at `port` (StartTLS too) and LDAPS at `tls_port`, with the certificate of `identity`.
    """

    name = "slapd"

    def __init__(self, directory: Path, people: dict[str, str], trust: Trust, identity: Path) -> None:
        super().__init__(directory)
        self.port, self.tls_port = free_port(), free_port()
        self.people = people
        self.trust = trust
        self.identity = identity

    def prepare(self) -> Sequence[str]:
        configuration = self.directory / "slapd.conf"
        if not configuration.exists():
            (self.directory / "db").mkdir()
            configuration.write_text(
                _CONFIGURATION.replace("@DIR@", str(self.directory))
                .replace("@CA@", str(self.trust.ca))
                .replace("@IDENTITY@", str(self.identity))
            )
            people = (_PERSON.replace("@UID@", uid) + f"userPassword: {word}\n\n" for uid, word in self.people.items())
            (self.directory / "base.ldif").write_text(_TREE + "".join(people))
            subprocess.run(  # noqa: S603  commands of our own
                [program("slapadd"), "-f", str(configuration), "-l", str(self.directory / "base.ldif")],
                check=True,
                capture_output=True,
            )
        addresses = f"ldap://127.0.0.1:{self.port}/ ldaps://127.0.0.1:{self.tls_port}/"
        return [program("slapd"), "-d", "0", "-f", str(configuration), "-h", addresses]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.tls_port), 2):
                return True
        except OSError:
            return False


_CONFIGURATION = f"""\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile @DIR@/slapd.pid
argsfile @DIR@/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile @CA@
TLSCertificateFile @IDENTITY@
TLSCertificateKeyFile @IDENTITY@
database mdb
maxsize 33554432
suffix "{BASE}"
rootdn "{ADMIN}"
rootpw "{ADMIN_PASSWORD}"
directory @DIR@/db
access to attrs=userPassword by anonymous auth by self write by * none
access to * by dn.exact="{ADMIN}" read by anonymous read by * none
"""

_TREE = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: Corp
dc: corp

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

"""

_PERSON = f"""\
dn: uid=@UID@,ou=people,{BASE}
objectClass: inetOrgPerson
uid: @UID@
cn: @UID@
sn: @UID@
mail: @UID@@corp.test
mail: @UID@.too@corp.test
"""
