"""Certificates for tests, made by openssl: an authority, and a server and a client that it has signed."""

import shutil
import ssl
import subprocess

OPENSSL = shutil.which("openssl")


class Certificates:
    """Files in ``folder``: ca.pem, server.pem, server.key, client.pem, client.key; other.pem is a stranger's."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in ("ca", "other"):
            self._run(
                "req", "-x509", *self._key(name), "-days", "2", "-subj", f"/CN={name}", "-out", self.of(f"{name}.pem")
            )
        for name in ("server", "client"):
            names = folder / f"{name}.ext"
            names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
            self._run("req", "-new", *self._key(name), "-subj", f"/CN={name}", "-out", self.of(f"{name}.csr"))
            signed = ["-CA", self.of("ca.pem"), "-CAkey", self.of("ca.key"), "-CAcreateserial", "-days", "2"]
            self._run(
                "x509",
                "-req",
                "-in",
                self.of(f"{name}.csr"),
                *signed,
                "-extfile",
                str(names),
                "-out",
                self.of(f"{name}.pem"),
            )

    def of(self, name):
        return str(self.folder / name)

    def client(self):
        """A context that trusts the authority and shows the client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.of("ca.pem"))
        context.load_cert_chain(self.of("client.pem"), self.of("client.key"))
        return context

    def conf(self, role="client"):
        """The keys of --rdzv-conf for one side."""
        return {
            "ca_cert": self.of("ca.pem"),
            "ssl_cert": self.of(f"{role}.pem"),
            "ssl_cert_key": self.of(f"{role}.key"),
        }

    def _key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.of(f"{name}.key")]

    def _run(self, *words):
        subprocess.run([OPENSSL, *words], check=True, capture_output=True)
