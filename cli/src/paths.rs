//! Paths of a version's files on this machine and in archives. A manifest may have been written by
//! anyone who may write to the bucket: no path in it leads out of the target.

use std::path::{Path, PathBuf};

/// A place for files, whose rules their paths have to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine.
    Folder,
    /// An archive, which may be unpacked on any system.
    Archive,
}

/// Checks that `path`, the path of a file in a draft, names a file below the target.
///
/// # Errors
///
/// Returns the problem.
pub fn check(path: &str, place: Place) -> Result<(), &'static str> {
    check_for(path, place, cfg!(windows))
}

/// Returns the file for `path`, which [`check`] has accepted, in `folder`.
pub fn in_folder(folder: &Path, path: &str) -> PathBuf {
    let mut file = folder.to_owned();
    file.extend(path.split('/'));
    file
}

/// Characters that Windows forbids in names ("Naming Files, Paths, and Namespaces", Microsoft).
const FORBIDDEN_ON_WINDOWS: &str = "<>:\"|?*\\";

/// Names of devices on Windows, with any extension.
const DEVICES: [&str; 6] = ["AUX", "CON", "CONIN$", "CONOUT$", "NUL", "PRN"];
/// Names of devices on Windows that end in a digit.
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

fn check_for(path: &str, place: Place, is_windows: bool) -> Result<(), &'static str> {
    if path.contains('\0') {
        return Err("it has a NUL character");
    }
    let names_a_drive = path.chars().nth(1) == Some(':');
    if place == Place::Archive && (path.contains('\\') || names_a_drive) {
        return Err("it has a backslash or a drive letter, which some programs unpack elsewhere");
    }
    for name in path.split('/') {
        match name {
            "" => return Err("it has an empty part"),
            "." | ".." => return Err("it has a part . or .."),
            name if is_windows => check_windows_name(name)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_windows_name(name: &str) -> Result<(), &'static str> {
    if name.contains(|c: char| c.is_control() || FORBIDDEN_ON_WINDOWS.contains(c)) {
        return Err("it has a character that Windows forbids");
    }
    if name.ends_with(['.', ' ']) {
        return Err("it has a part that ends in a dot or a space, which Windows forbids");
    }
    let stem = name.split('.').next().unwrap_or_default();
    let stem = stem.trim_end().to_ascii_uppercase();
    let is_numbered = |device: &&str| {
        let number = stem.strip_prefix(*device);
        // Superscript digits count too.
        number.is_some_and(|number| matches!(number, "¹" | "²" | "³") || is_digit(number))
    };
    if DEVICES.contains(&&*stem) || NUMBERED_DEVICES.iter().any(is_numbered) {
        return Err("it has the name of a Windows device");
    }
    Ok(())
}

fn is_digit(text: &str) -> bool {
    text.len() == 1 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_paths_of_drafts() {
        for path in [
            "draft_meta_info.json",
            "assets/a b/剪映 +%41 '1'.mp4",
            ".backup/x.bak",
            "Timelines/2F52A63B-8C6A-4417-8B01-1B2A569CCB6C/draft_info.json",
            "...",
            "a..b",
            "COM/console.txt",
            "e\u{301}/😀",
        ] {
            for place in [Place::Folder, Place::Archive] {
                for is_windows in [false, true] {
                    let is_dots = path == "..." && is_windows;
                    let result = check_for(path, place, is_windows);
                    assert_eq!(result.is_ok(), !is_dots, "{path}: {result:?}");
                }
            }
        }
        let file = in_folder(Path::new("to"), "a/b c");
        assert_eq!(file, Path::new("to").join("a").join("b c"));
    }

    #[test]
    fn refuses_paths_that_could_lead_out_of_the_target() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "//a",
            "a//b",
            "a/",
            "..",
            "../a",
            "a/../../b",
            "a/..",
            ".",
            "./a",
            "a/./b",
            "a\0b",
        ] {
            for place in [Place::Folder, Place::Archive] {
                for is_windows in [false, true] {
                    assert!(check_for(path, place, is_windows).is_err(), "{path:?}");
                }
            }
        }
        for path in [
            "..\\a",
            "a\\..\\..\\b",
            "\\a",
            "C:",
            "C:/a",
            "c:a",
            "\\\\server\\a",
        ] {
            assert!(check_for(path, Place::Archive, false).is_err(), "{path}");
            assert!(check_for(path, Place::Folder, true).is_err(), "{path}");
        }
    }

    #[test]
    fn refuses_names_that_windows_treats_specially() {
        for path in [
            "a/CON", "nul.txt", "Aux", "com1", "LPT9.x", "com¹", "NUL .txt", "a?", "a*", "a:b",
            "a|b", "a.", "a ", "a/b. /c", "a\tb", "conin$",
        ] {
            assert!(check_for(path, Place::Folder, true).is_err(), "{path}");
        }
    }
}
