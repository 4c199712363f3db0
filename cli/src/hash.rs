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
            return hex(&self.part.finalize());
        }
        if self.part_bytes > 0 {
            self.parts.update(self.part.finalize());
        }
        hex(&self.parts.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
