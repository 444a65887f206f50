"""The settings of where the service listens, who may talk to it and over what."""

from pathlib import Path

from pydantic import BaseModel, Field


class SecuritySettings(BaseModel):
    """Part of the service's settings."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    api_keys_file: Path | None = Field(
        default=None, description="File of API keys, as `atsnet keys new` makes it; read again when it changes."
    )
    api_keys: str | None = Field(
        default=None, description="Lines of such a file themselves, hashes and no keys; beside or instead of the file."
    )
    allow_open: bool = Field(
        default=False, description="Serve without API keys on an address that other machines reach."
    )
    rate_limit: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Requests a second that each key, or without keys each address, may make of a worker.",
    )
    rate_burst: int = Field(
        default=20, ge=1, le=1_000_000, description="With `rate_limit`: requests that may come at once after a pause."
    )
    ssl_certfile: Path | None = Field(
        default=None,
        description="Certificate of the service and those between it and its authority, PEM: serves HTTPS.",
    )
    ssl_keyfile: Path | None = Field(default=None, description="Its private key, PEM; by default in the same file.")
    ssl_keyfile_password: str | None = Field(default=None, repr=False, description="Password of the private key.")
    ssl_ca_certs: Path | None = Field(
        default=None, description="Authorities, PEM: only clients with a certificate of one of them may connect."
    )

    @property
    def has_keys(self) -> bool:
        """Whether API keys are asked for; a variable that came out empty is no leave to go without."""
        return self.api_keys_file is not None or self.api_keys is not None
