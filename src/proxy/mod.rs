//! The data plane: accepts clients, hands them to the thread of their tenant, drains.
