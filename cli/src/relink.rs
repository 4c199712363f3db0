//! Adapts the paths of materials in a document to the folder into which the draft was downloaded.

use std::collections::HashSet;

/// The paths in a version: those of its files, and of the folders that contain them.
#[derive(Debug, Default)]
pub struct KnownPaths<'a>(HashSet<&'a str>);

impl<'a> KnownPaths<'a> {
    /// Adds a file and the folders that contain it.
    pub fn add(&mut self, path: &'a str) {
        let mut path = path;
        while self.0.insert(path) {
            match path.rsplit_once('/') {
                Some((folder, _)) => path = folder,
                None => break,
            }
        }
    }

    /// Returns whether an end of `text` that follows a separator, or all of it, is a path in the version.
    pub fn has_end_of(&self, text: &str) -> bool {
        let text = text.replace('\\', "/");
        let mut ends = text.match_indices('/').map(|(at, _)| &text[at + 1..]);
        self.0.contains(&*text) || ends.any(|end| self.0.contains(end))
    }

    /// Returns the part of `text` that is a path in the version, if `text` is an absolute path on any
    /// system: what follows the name of the draft's folder, `id`, or else the longest end that has a
    /// folder in it.
    pub fn find(&self, text: &str, id: &str) -> Option<String> {
        let text = text.replace('\\', "/");
        let bytes = text.as_bytes();
        let has_drive = bytes.first().is_some_and(u8::is_ascii_alphabetic)
            && bytes.get(1) == Some(&b':')
            && bytes.get(2) == Some(&b'/');
        if !text.starts_with('/') && !has_drive {
            return None;
        }
        let ends = || {
            text.match_indices('/')
                .map(|(at, _)| (&text[..at], &text[at + 1..]))
        };
        let after_id = ends()
            .find(|(folder, end)| folder.rsplit('/').next() == Some(id) && self.0.contains(end));
        let found =
            after_id.or_else(|| ends().find(|(_, end)| end.contains('/') && self.0.contains(end)));
        found.map(|(_, end)| end.to_owned())
    }
}

/// Returns `document` with all absolute paths of files of the version replaced by those in `folder`,
/// an absolute path with `/` as its separator, and their number. All other bytes stay as they are.
pub fn relink(document: &[u8], id: &str, folder: &str, paths: &KnownPaths<'_>) -> (Vec<u8>, usize) {
    let folder = folder.trim_end_matches('/');
    let mut output = Vec::with_capacity(document.len());
    let mut count = 0;
    let mut rest = document;
    while let Some(begin) = rest.iter().position(|&byte| byte == b'"') {
        let end = string_end(&rest[begin..]).map_or(rest.len(), |end| begin + end);
        let (before, literal) = (&rest[..begin], &rest[begin..end]);
        output.extend_from_slice(before);
        // A string with a lone surrogate is no path.
        let text: Option<String> = serde_json::from_slice(literal).ok();
        let found = text.and_then(|text| paths.find(&text, id));
        let linked = found.and_then(|path| {
            let linked = format!("{folder}/{path}");
            serde_json::to_vec(&linked).ok()
        });
        match linked {
            Some(linked) if linked != literal => {
                output.extend_from_slice(&linked);
                count += 1;
            }
            _ => output.extend_from_slice(literal),
        }
        rest = &rest[end..];
    }
    output.extend_from_slice(rest);
    (output, count)
}

/// Returns the length of the JSON string with which `text` begins, with both quotes.
fn string_end(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "2025092811473036584258";

    fn run(document: &str, files: &[&str]) -> (String, usize) {
        let mut paths = KnownPaths::default();
        for path in files {
            paths.add(path);
        }
        let (bytes, count) = relink(document.as_bytes(), ID, "/home/我/draft", &paths);
        (String::from_utf8(bytes).expect("UTF-8"), count)
    }

    #[test]
    fn adapts_absolute_paths_of_all_systems() {
        for path in [
            "/app/output/draft/2025092811473036584258/assets/x.mp4",
            r"C:\\drafts\\2025092811473036584258\\assets\\x.mp4",
            "D:/drafts/2025092811473036584258/assets/x.mp4",
            r"\\\\server\\share\\2025092811473036584258\\assets\\x.mp4",
            r"\/app\/2025092811473036584258\/assets\/x.mp4",
            // Another name of the folder.
            "/Users/a/Movies/CapCut/My draft/assets/x.mp4",
            // The id twice.
            "/2025092811473036584258/2025092811473036584258/assets/x.mp4",
        ] {
            let document = format!(r#"{{"path":"{path}","n":NaN}}"#);
            let expected = r#"{"path":"/home/我/draft/assets/x.mp4","n":NaN}"#;
            let files = ["assets/x.mp4", "x.mp4"];
            assert_eq!(run(&document, &files), (expected.to_owned(), 1), "{path}");
        }
    }

    #[test]
    fn leaves_all_other_bytes_as_they_are() {
        for text in [
            r#"{ "a" : "\ud800", "b":"assets/x.mp4" , "c" :1e5,"d":"\u0041" }"#,
            // Not in the version.
            r#"["/app/output/draft/2025092811473036584258/assets/y.mp4"]"#,
            r#"["/usr/share/x.mp4","C:x.mp4","http://host/assets/x.mp4","_placeholder_/assets/x.mp4"]"#,
            r#"["/app/2025092811473036584258/../assets"]"#,
            r#"["/app/2025092811473036584258","/","","\"/assets/x.mp4\""]"#,
            // The right one already.
            r#"["/home/我/draft/assets/x.mp4"]"#,
            // Not JSON.
            r#"{"a":"/app/assets/x.mp4\"#,
            r#"{"a":"/app/assets/x.mp4"#,
        ] {
            assert_eq!(run(text, &["assets/x.mp4", "x.mp4"]), (text.to_owned(), 0));
        }
        let binary = b"{\"a\":\"\xff/assets/x.mp4\"}";
        let mut paths = KnownPaths::default();
        paths.add("assets/x.mp4");
        assert_eq!(relink(binary, ID, "/x", &paths), (binary.to_vec(), 0));
    }

    #[test]
    fn adapts_folders_too_and_a_file_beside_the_document_after_the_id() {
        let document = r#"{"a":"/o/2025092811473036584258/matting/1","b":"/o/2025092811473036584258/cover.png","c":"/o/cover.png"}"#;
        let expected =
            r#"{"a":"/home/我/draft/matting/1","b":"/home/我/draft/cover.png","c":"/o/cover.png"}"#;
        let files = ["matting/1/0001.png", "cover.png"];
        assert_eq!(run(document, &files), (expected.to_owned(), 2));
    }
}
