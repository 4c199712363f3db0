//! The checksums that S3 stores and verifies.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};

/// First part of the names of headers with checksums that are stored.
pub const PREFIX: &str = "x-amz-checksum-";
pub const CRC64NVME: &str = "x-amz-checksum-crc64nvme";
pub const CONTENT_MD5: &str = "content-md5";
/// The names of all headers with checksums.
pub const NAMES: [&str; 6] = [
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    CRC64NVME,
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    CONTENT_MD5,
];

/// Returns the value of one of these headers for `bytes`.
pub fn of(name: &str, bytes: &[u8]) -> String {
    match name.trim_start_matches(PREFIX) {
        "crc32" => base64(Crc32::checksum(bytes)),
        "crc32c" => base64(Crc32c::checksum(bytes)),
        "crc64nvme" => base64(Crc64Nvme::checksum(bytes)),
        "sha1" => base64(Sha1::checksum(bytes)),
        "sha256" => base64(Sha256::checksum(bytes)),
        CONTENT_MD5 => base64(Md5::checksum(bytes)),
        _ => panic!("{name} is not a checksum of S3"),
    }
}

/// Encodes a digest.
pub fn base64(digest: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(digest)
}
