//! Compares the bytes of a file with its `ETag`.

use md5::{Digest as _, Md5};

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Different,
    /// The `ETag` is not computed from the bytes in a known way.
    Unknown,
}

/// Computes the possible `ETag`s of a file while it is read.
///
/// The `ETag` of an object is the MD5 of its bytes, or, after a multipart upload of N parts, the MD5 of the parts'
/// MD5s and `-N` ("Checking object integrity", Amazon S3 User Guide). Neither holds for objects that are encrypted
/// with a KMS key.
#[derive(Debug)]
pub struct EtagHasher {
    etag: String,
    candidates: Vec<Candidate>,
}

/// A size of the parts with which the `ETag` may have been computed.
#[derive(Debug)]
struct Candidate {
    /// `None` if the object was not uploaded in parts.
    part_size: Option<u64>,
    part: Md5,
    part_bytes: u64,
    /// The MD5s of the parts that are complete.
    parts: Md5,
}

const MIB: u64 = 1 << 20;

/// Sizes of parts that upload tools use, in MiB.
const PART_SIZES: [u64; 12] = [5, 6, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100];

impl EtagHasher {
    /// Starts the comparison of a file with `size` bytes and this `ETag`, without quotes.
    pub fn new(etag: &str, size: u64) -> Self {
        let is_md5 = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let part_sizes: Vec<Option<u64>> = match etag.split_once('-') {
            None if is_md5(etag) => vec![None],
            Some((md5, count)) if is_md5(md5) => match count.parse::<u64>() {
                Ok(count) if count > 0 => part_sizes(size, count).into_iter().map(Some).collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let candidates = part_sizes.into_iter().map(|part_size| Candidate {
            part_size,
            part: Md5::new(),
            part_bytes: 0,
            parts: Md5::new(),
        });
        Self {
            etag: etag.to_ascii_lowercase(),
            candidates: candidates.collect(),
        }
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        for candidate in &mut self.candidates {
            candidate.update(bytes);
        }
    }

    /// Compares at the end of the file.
    pub fn finish(self) -> Comparison {
        let is_whole = self.candidates.iter().any(|c| c.part_size.is_none());
        let (md5, _) = self.etag.split_once('-').unwrap_or((&self.etag, ""));
        let mut md5s = self.candidates.into_iter().map(Candidate::finish);
        if md5s.any(|other| other == md5) {
            Comparison::Equal
        } else if is_whole {
            Comparison::Different
        } else {
            Comparison::Unknown
        }
    }
}

/// Returns the usual sizes of parts with which `size` bytes have `count` parts.
fn part_sizes(size: u64, count: u64) -> Vec<u64> {
    let usual = PART_SIZES.into_iter().map(|mib| mib * MIB);
    let larger = [128, 200, 256, 500, 512, 1024].map(|mib| mib * MIB);
    // Tools that know the size divide it.
    let even = [
        size.div_ceil(count),
        size.div_ceil(count).div_ceil(MIB) * MIB,
    ];
    let mut sizes: Vec<u64> = usual
        .chain(larger)
        .chain(even)
        .filter(|&part| part > 0 && size.div_ceil(part).max(1) == count)
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

impl Candidate {
    fn update(&mut self, mut bytes: &[u8]) {
        let Some(part_size) = self.part_size else {
            self.part.update(bytes);
            return;
        };
        while !bytes.is_empty() {
            let room = part_size - self.part_bytes;
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(length);
            self.part.update(now);
            self.part_bytes += length as u64;
            if self.part_bytes == part_size {
                self.parts.update(self.part.finalize_reset());
                self.part_bytes = 0;
            }
            bytes = later;
        }
    }

    fn finish(mut self) -> String {
        if self.part_size.is_none() {
            return hex::encode(self.part.finalize());
        }
        if self.part_bytes > 0 {
            self.parts.update(self.part.finalize());
        }
        hex::encode(self.parts.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(bytes: &[u8], etag: &str) -> Comparison {
        let mut hasher = EtagHasher::new(etag, bytes.len() as u64);
        for chunk in bytes.chunks(1_000_003) {
            hasher.update(chunk);
        }
        hasher.finish()
    }

    /// Returns the `ETag` of a multipart upload.
    fn multipart(bytes: &[u8], part_size: usize) -> String {
        let parts: Vec<_> = bytes.chunks(part_size).map(Md5::digest).collect();
        format!(
            "{}-{}",
            hex::encode(Md5::digest(parts.concat())),
            parts.len()
        )
    }

    #[test]
    fn compares_with_the_md5_of_the_bytes() {
        assert_eq!(
            compare(b"abc", "900150983cd24fb0d6963f7d28e17f72"),
            Comparison::Equal
        );
        assert_eq!(
            compare(b"xyz", "900150983cd24fb0d6963f7d28e17f72"),
            Comparison::Different
        );
        assert_eq!(
            compare(b"", "d41d8cd98f00b204e9800998ecf8427e"),
            Comparison::Equal
        );
        for etag in [
            "",
            "abc",
            "900150983cd24fb0d6963f7d28e17f7",
            "900150983cd24fb0d6963f7d28e17f72-0",
        ] {
            assert_eq!(compare(b"abc", etag), Comparison::Unknown, "{etag}");
        }
    }

    #[test]
    fn compares_with_the_etag_of_a_multipart_upload() {
        let mib = 1 << 20;
        let bytes: Vec<u8> = (0..21 * mib + 5)
            .map(|i: usize| u8::try_from(i % 251).unwrap_or_default())
            .collect();
        for part_size in [
            5 * mib,
            8 * mib,
            16 * mib,
            bytes.len(),
            bytes.len().div_ceil(3),
        ] {
            let etag = multipart(&bytes, part_size);
            assert_eq!(compare(&bytes, &etag), Comparison::Equal, "{part_size}");
        }
        let etag = multipart(&bytes, 8 * mib);
        let mut changed = bytes.clone();
        changed[9 * mib] ^= 1;
        assert_eq!(compare(&changed, &etag), Comparison::Unknown);
        assert_eq!(
            compare(&bytes, &multipart(&bytes, 7 * mib + 1)),
            Comparison::Unknown
        );
    }
}
