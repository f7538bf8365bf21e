//! The EICAR anti-malware test file: 68 fixed bytes at the very start of a file, followed by nothing but white space, 128
//! bytes in total at most. The string inside a longer file is not a test file, and is not reported as one.

/// The test string, stored reversed so that scanners leave this source alone.
const REVERSED: &[u8; 68] = br"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X";
/// The specification's bound on the whole file.
const FILE_BYTES_MAX: usize = 128;

pub(crate) fn is_eicar(bytes: &[u8]) -> bool {
    bytes.len() <= FILE_BYTES_MAX
        && bytes.len() >= REVERSED.len()
        && bytes.iter().zip(REVERSED.iter().rev()).all(|(byte, expected)| byte == expected)
        && bytes.iter().skip(REVERSED.len()).all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x1a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eicar() -> Vec<u8> {
        REVERSED.iter().rev().copied().collect()
    }

    #[test]
    fn exact_and_with_white_space() {
        assert!(is_eicar(&eicar()));
        assert!(is_eicar(&[eicar(), b"\r\n \t\x1a".to_vec()].concat()));
        assert!(is_eicar(&[eicar(), vec![b' '; 60]].concat()));
    }

    #[test]
    fn refused_when_longer_elsewhere_or_incomplete() {
        assert!(!is_eicar(&[eicar(), vec![b' '; 61]].concat()));
        assert!(!is_eicar(&[b" ".to_vec(), eicar()].concat()));
        assert!(!is_eicar(&[eicar(), b"x".to_vec()].concat()));
        assert!(!is_eicar(&eicar()[..67]));
        assert!(!is_eicar(b""));
    }
}
