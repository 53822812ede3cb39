"""A certificate authority of the tests' own, and what it signs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Chain:
    """PEM: the signer's certificate and then its issuer's, the signer's key, and the issuer's alone."""

    certificates: bytes
    key: bytes
    root: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        paths = folder / "chain.pem", folder / "key.pem"
        for path, data in zip(paths, (self.certificates, self.key), strict=True):
            path.write_bytes(data)
        return paths


def make_key(algorithm: str) -> Key:
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("ps"):
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(
        {"es256": ec.SECP256R1(), "es384": ec.SECP384R1(), "es512": ec.SECP521R1()}[algorithm]
    )


def make_chain(algorithm: str = "es256", *, days: int = 30) -> Chain:
    """A chain for that algorithm, valid for so many days from yesterday on (negative: no longer)."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), make_key(algorithm)
    root = _certificate("Test root", root_key, "Test root", root_key, days=400, authority=True)
    signer = _certificate("Test signer", key, "Test root", root_key, days=days, authority=False)
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Chain(signer.public_bytes(PEM) + root.public_bytes(PEM), secret, root.public_bytes(PEM))


def _certificate(
    subject: str, key: Key, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, days: int, authority: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    begin = now - timedelta(days=1) if days > 0 else now + timedelta(days=2 * days)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage), True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(issuer_key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")]
    )
