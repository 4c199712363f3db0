//! The checksums that S3 stores and verifies.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};

/// First part of the names of the headers with checksums.
pub const PREFIX: &str = "x-amz-checksum-";
/// The algorithms, which are the second part of those names.
pub const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

/// Returns the value of the header `{name}` for these bytes: a checksum, or `content-md5`.
pub fn of(name: &str, bytes: &[u8]) -> String {
    match name.strip_prefix(PREFIX).unwrap_or(name) {
        "crc32" => base64(Crc32::checksum(bytes)),
        "crc32c" => base64(Crc32c::checksum(bytes)),
        "crc64nvme" => base64(Crc64Nvme::checksum(bytes)),
        "sha1" => base64(Sha1::checksum(bytes)),
        "sha256" => base64(Sha256::checksum(bytes)),
        "content-md5" => base64(Md5::checksum(bytes)),
        _ => panic!("{name} is not a checksum of S3"),
    }
}

/// Encodes a digest.
pub fn base64(digest: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(digest)
}
