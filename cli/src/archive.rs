//! A zip with the files of a draft.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use jiff::{Timestamp, tz::TimeZone};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Size up to which an entry of a zip needs no ZIP64 ("APPNOTE.TXT", 4.3.9). A compressed one may be a little
/// larger than its file.
const MAX_SMALL_BYTES: u64 = u32::MAX as u64 / 2;

/// A zip that is being written.
pub struct Archive(ZipWriter<BufWriter<File>>);

impl Archive {
    /// Creates the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create_new(path)?);
        Ok(Self(ZipWriter::new(file)))
    }

    /// Begins a file of the draft. Its name is not compared with others: two with the same name are an error.
    pub fn begin(&mut self, path: &str, size: u64, modified: Timestamp) -> io::Result<()> {
        // Media is compressed already.
        let is_json = Path::new(path)
            .extension()
            .is_some_and(|it| it.eq_ignore_ascii_case("json"));
        let method = if is_json {
            CompressionMethod::Deflated
        } else {
            CompressionMethod::Stored
        };
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .large_file(size > MAX_SMALL_BYTES)
            .last_modified_time(time(modified));
        self.0.start_file(path, options).map_err(io::Error::from)
    }

    /// Adds bytes to the last file.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Completes the zip, which then survives a crash of the machine.
    pub fn finish(self) -> io::Result<()> {
        let mut file = self.0.finish().map_err(io::Error::from)?;
        file.flush()?;
        file.get_ref().sync_all()
    }
}

/// Returns a time in UTC as a zip stores it: between 1980 and 2107, to two seconds.
fn time(time: Timestamp) -> DateTime {
    let time = time.to_zoned_datetime(TimeZone::UTC);
    let part = |number: i8| u8::try_from(number).unwrap_or_default();
    let parsed = DateTime::from_date_and_time(
        u16::try_from(time.year()).unwrap_or_default(),
        part(time.month()),
        part(time.day()),
        part(time.hour()),
        part(time.minute()),
        part(time.second()),
    );
    parsed.unwrap_or_default()
}
