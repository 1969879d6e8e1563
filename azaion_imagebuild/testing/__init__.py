"""For authors of plug-ins: the promises of a plug-in as tests to inherit, and the parts they need.

It is a pytest plug-in, which tests have to name (docs/how-to/plugin-packages.md)::

    pytest_plugins = ["azaion_imagebuild.testing"]  # in the topmost conftest.py

Nothing else in this package needs pytest.
"""

from .admin_api import AccountBook, FallibleAdminApi, Fault, Request
from .fixtures import (
    _sandbox_bakery,  # noqa: F401 - a fixture of sandbox_image
    sandbox_accounts,
    sandbox_admin_api,
    sandbox_bsp,
    sandbox_build,
    sandbox_device,
    sandbox_environment,
    sandbox_image,
    sandbox_rootfs,
)
from .flashing import FlashConformance, replaced
from .provisioning import AdminApiConformance, ProvisionIdentityConformance
from .stations import FlashableImage

__all__ = [
    "AccountBook",
    "AdminApiConformance",
    "FallibleAdminApi",
    "Fault",
    "FlashConformance",
    "FlashableImage",
    "ProvisionIdentityConformance",
    "Request",
    "replaced",
    "sandbox_accounts",
    "sandbox_admin_api",
    "sandbox_bsp",
    "sandbox_build",
    "sandbox_device",
    "sandbox_environment",
    "sandbox_image",
    "sandbox_rootfs",
]
