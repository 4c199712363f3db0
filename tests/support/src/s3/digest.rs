//! The digests that S3 shows and checks.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};

/// The algorithms of `x-amz-checksum-…`.
pub const ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

/// The value of the header `x-amz-checksum-{algorithm}` for these bytes.
///
/// # Panics
///
/// When the algorithm is none of [`ALGORITHMS`].
pub fn checksum(algorithm: &str, bytes: &[u8]) -> String {
    match algorithm {
        "crc32" => BASE64.encode(Crc32::checksum(bytes)),
        "crc32c" => BASE64.encode(Crc32c::checksum(bytes)),
        "crc64nvme" => BASE64.encode(Crc64Nvme::checksum(bytes)),
        "sha1" => BASE64.encode(Sha1::checksum(bytes)),
        "sha256" => BASE64.encode(Sha256::checksum(bytes)),
        _ => panic!("{algorithm} is no algorithm of S3"),
    }
}

/// The `ETag` of these bytes, without quotes.
pub fn md5_hex(bytes: &[u8]) -> String {
    let digest = Md5::checksum(bytes);
    format!("{:032x}", u128::from_be_bytes(digest))
}

/// The value of the header `Content-MD5` for these bytes.
pub fn md5_base64(bytes: &[u8]) -> String {
    BASE64.encode(Md5::checksum(bytes))
}

/// Whether two values are Base64 of equally many bytes.
pub fn same_form(given: &str, right: &str) -> bool {
    let length = |text: &str| BASE64.decode(text).map(|bytes| bytes.len()).ok();
    length(given) == length(right)
}
