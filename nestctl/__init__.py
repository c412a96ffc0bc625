"""nestctl: check, orchestrate and measure nested virtualization with KVM and libvirt."""

__version__ = "0.1.0"
