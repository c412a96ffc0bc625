"""The only modules that touch the world: processes, SSH, libvirt."""
