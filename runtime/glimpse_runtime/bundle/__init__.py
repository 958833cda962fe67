"""What export writes and the runtime reads: the manifest, its checks, the certificate, where bundles lie."""
