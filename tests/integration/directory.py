"""A real slapd with people in it, and an authority for its certificates."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from parts import Part, free_port, program

__all__ = ["ADMIN", "ADMIN_PASSWORD", "BASE", "Authority", "Slapd"]

BASE = "dc=corp,dc=test"
ADMIN, ADMIN_PASSWORD = f"cn=admin,{BASE}", "of the gateway"


class Authority:
    """Makes certificates: `ca` is the file of its own, `issue` one for names and addresses."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.ca = directory / "ca.pem"
        self._key = generate_private_key(SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {directory.name}")])
        certificate = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.ca.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, *names: str) -> Path:
        """A file with the key and the certificate; the certificate alone is behind `.crt`."""
        key = generate_private_key(SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        certificate = self._signed(subject, key, x509.SubjectAlternativeName([_general(name) for name in names]))
        path = self.directory / f"{names[0]}.pem"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
        path.with_suffix(".crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        return path

    def _signed(
        self, subject: x509.Name, key: EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Slapd(Part):
    """slapd with `people`: password by uid, in clear text; each has the addresses UID@corp.test and UID.too@corp.test.

    It speaks LDAP at `port` (StartTLS too) and LDAPS at `tls_port`, with the certificate of `identity`.
    """

    name = "slapd"

    def __init__(self, directory: Path, people: dict[str, str], authority: Authority, identity: Path) -> None:
        super().__init__(directory)
        self.port, self.tls_port = free_port(), free_port()
        self.people = people
        self.authority = authority
        self.identity = identity

    def prepare(self) -> Sequence[str]:
        configuration = self.directory / "slapd.conf"
        if not configuration.exists():
            (self.directory / "db").mkdir()
            configuration.write_text(
                _CONFIGURATION.replace("@DIR@", str(self.directory))
                .replace("@CA@", str(self.authority.ca))
                .replace("@IDENTITY@", str(self.identity))
                .replace("@CERTIFICATE@", str(self.identity.with_suffix(".crt")))
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
TLSCertificateFile @CERTIFICATE@
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
