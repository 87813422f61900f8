"""The cluster's own certificate authority and certificates. P-256, so it takes no time.

Everything is made anew with each cluster and goes with it.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEAR = datetime.timedelta(days=365)
_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, name: str) -> None:
        """As NAME.crt and NAME.key."""
        (folder / f"{name}.crt").write_bytes(self.certificate_pem)
        _write_secret(folder / f"{name}.key", self.key_pem)


def authority(name: str) -> Pair:
    """A new self-signed authority."""
    return _make(name, [], None, x509.BasicConstraints(ca=True, path_length=None), None, [])


def read(folder: Path, name: str) -> Pair:
    """What `Pair.write` wrote."""
    key = load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Pair(x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()), key)


def client(ca: Pair, name: str, groups: Sequence[str] = ()) -> Pair:
    """A certificate to call the API server with: `name` is the user."""
    leaf = x509.BasicConstraints(ca=False, path_length=None)
    return _make(name, groups, ca, leaf, ExtendedKeyUsageOID.CLIENT_AUTH, [])


def server(ca: Pair, name: str, names: Sequence[str]) -> Pair:
    """A certificate to serve with, for these DNS names and addresses."""
    leaf = x509.BasicConstraints(ca=False, path_length=None)
    return _make(name, [], ca, leaf, ExtendedKeyUsageOID.SERVER_AUTH, names)


def write_service_account_keys(folder: Path) -> None:
    """Keys that sign service accounts' tokens: RSA, as kubeadm's are, so that a verifier that
    works here works elsewhere."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_secret(
        folder / "sa.key",
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    )
    (folder / "sa.pub").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def _make(
    name: str,
    groups: Sequence[str],
    ca: Pair | None,
    constraints: x509.BasicConstraints,
    usage: x509.ObjectIdentifier | None,
    names: Sequence[str],
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = ca.key if ca else key
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        + [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.certificate.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + 10 * _YEAR)
        .add_extension(constraints, critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=constraints.ca,
                crl_sign=constraints.ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        # Python's strict verification (3.13) wants both identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False
        )
    return Pair(builder.sign(issuer_key, hashes.SHA256()), key)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_secret(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
