//! Who someone is: SCRAM-SHA-256 both ways, verifiers, and the references to stored secrets. Pure but for reading secrets.
