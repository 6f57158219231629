//! The control plane: makes and changes tenants on real servers and in the registry.
