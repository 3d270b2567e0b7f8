"""A real slapd that plays an Active Directory: its attributes, its numbers, people and groups with addresses."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from directory import ADMIN, ADMIN_PASSWORD, BASE, Slapd
from parts import program
from secured import Trust

__all__ = ["PlayedDirectory"]

#: What the server says it has reached: whatever is changed here gets a higher number.
_REACHED = 1000


class PlayedDirectory(Slapd):
    """slapd with `count` people, u0@corp.test, u1@corp.test ..., and the group all@corp.test for internal mail."""

    def __init__(self, directory: Path, trust: Trust, identity: Path, count: int) -> None:
        super().__init__(directory, {}, trust, identity)
        self.count = count
        self._number = _REACHED

    def prepare(self) -> Sequence[str]:
        configuration = self.directory / "slapd.conf"
        if not configuration.exists():
            (self.directory / "db").mkdir()
            (self.directory / "ad.schema").write_text(_SCHEMA)
            (self.directory / "root.ldif").write_text(
                f"dn:\nobjectClass: top\ndnsHostName: dc1.corp.test\nhighestCommittedUSN: {_REACHED}\n"
            )
            files = {"@DIR@": self.directory, "@CA@": self.trust.ca, "@IDENTITY@": self.identity}
            text = _CONFIGURATION
            for place, file in files.items():
                text = text.replace(place, str(file))
            configuration.write_text(text)
            people = "".join(_person(f"u{number}", number + 1) for number in range(self.count))
            group = _person("all", 900).replace("SMTP:", "smtp:") + "msExchRequireAuthToSendTo: TRUE\n"
            (self.directory / "base.ldif").write_text(f"{_TREE}{people}\n{group}")
            subprocess.run(  # noqa: S603  commands of our own
                [program("slapadd"), "-f", str(configuration), "-l", str(self.directory / "base.ldif")],
                check=True,
                capture_output=True,
            )
        return super().prepare()

    def add(self, name: str) -> None:
        """One more, with the next number."""
        self._number += 1
        self._change("ldapadd", _person(name, self._number))

    def move(self, name: str, address: str) -> None:
        """Another address in the place of the old ones."""
        self._number += 1
        change = f"changetype: modify\nreplace: proxyAddresses\nproxyAddresses: SMTP:{address}\n-\n"
        change += f"replace: uSNChanged\nuSNChanged: {self._number}\n"
        self._change("ldapmodify", f"dn: cn={name},{BASE}\n{change}")

    def remove(self, *names: str) -> None:
        """Gone, without a trace."""
        self._change("ldapmodify", "".join(f"dn: cn={name},{BASE}\nchangetype: delete\n\n" for name in names))

    def _change(self, command: str, text: str) -> None:
        subprocess.run(  # noqa: S603  commands of our own
            [program(command), "-x", "-H", f"ldap://127.0.0.1:{self.port}", "-D", ADMIN, "-w", ADMIN_PASSWORD],
            input=text,
            text=True,
            check=True,
            capture_output=True,
        )


def _person(name: str, number: int) -> str:
    return f"""\
dn: cn={name},{BASE}
objectClass: person
objectClass: recipient
cn: {name}
sn: {name}
objectGUID: guid-of-{name}
uSNChanged: {number}
userAccountControl: 512
proxyAddresses: X500:/o=Corp/cn={name}
proxyAddresses: SMTP:{name}@Corp.test
proxyAddresses: smtp:{name}.too@corp.test
""" + ("" if name == "all" else "\n")


_TREE = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: Corp
dc: corp

"""

_TEXT = "EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15"
_NUMBER = "EQUALITY integerMatch ORDERING integerOrderingMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE"
_FLAG = "EQUALITY booleanMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.7 SINGLE-VALUE"
_SCHEMA = f"""\
attributetype ( 1.2.840.113556.1.2.210 NAME 'proxyAddresses' {_TEXT} )
attributetype ( 1.2.840.113556.1.4.619 NAME 'dnsHostName' {_TEXT} )
attributetype ( 1.2.840.113556.1.4.5062 NAME 'msExchRequireAuthToSendTo' {_FLAG} )
attributetype ( 1.2.840.113556.1.2.120 NAME 'uSNChanged' {_NUMBER} )
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' {_NUMBER} )
attributetype ( 1.2.840.113556.1.4.1349 NAME 'highestCommittedUSN' {_NUMBER} )
attributetype ( 1.2.840.113556.1.4.2 NAME 'objectGUID' EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.2.840.113556.1.5.9999 NAME 'recipient' SUP top AUXILIARY
  MAY ( proxyAddresses $ msExchRequireAuthToSendTo $ uSNChanged $ userAccountControl $ objectGUID ) )
"""

_CONFIGURATION = f"""\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include @DIR@/ad.schema
rootDSE @DIR@/root.ldif
pidfile @DIR@/slapd.pid
argsfile @DIR@/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile @CA@
TLSCertificateFile @IDENTITY@
TLSCertificateKeyFile @IDENTITY@
database mdb
maxsize 67108864
suffix "{BASE}"
rootdn "{ADMIN}"
rootpw "{ADMIN_PASSWORD}"
directory @DIR@/db
access to * by anonymous auth by * none
"""
