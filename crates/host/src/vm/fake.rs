//! A hypervisor that is a model: domains without QEMU, for tests and for simulated hosts.
