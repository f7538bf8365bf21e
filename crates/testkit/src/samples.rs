//! Samples that are inert on disk. The EICAR test file is not malware, but every engine reports it, so it is kept masked
//! and put together at run time (EICAR, "Anti-Malware Testfile": 68 bytes of printable text).

/// Each byte is masked with [`MASK`].
const EICAR_MASKED: [u8; 68] = [
    0x72, 0x1f, 0x65, 0x0b, 0x7a, 0x0f, 0x6a, 0x6b, 0x7a, 0x71, 0x1e, 0x76, 0x7a, 0x70, 0x72, 0x1f, 0x1e, 0x02, 0x7a, 0x74, 0x03,
    0x1d, 0x69, 0x69, 0x03, 0x1d, 0x57, 0x0e, 0x6f, 0x63, 0x69, 0x6b, 0x78, 0x07, 0x79, 0x7e, 0x6b, 0x64, 0x6e, 0x6b, 0x78, 0x6e,
    0x07, 0x6b, 0x64, 0x7e, 0x63, 0x7c, 0x63, 0x78, 0x7f, 0x79, 0x07, 0x7e, 0x6f, 0x79, 0x7e, 0x07, 0x6c, 0x63, 0x66, 0x6f, 0x0b,
    0x0e, 0x62, 0x01, 0x62, 0x00,
];
const MASK: u8 = 0x2a;

/// The EICAR test file.
pub fn eicar() -> Vec<u8> {
    EICAR_MASKED.iter().map(|byte| byte ^ MASK).collect()
}

/// A zip archive that holds one stored member (APPNOTE 6.3.10 sections 4.3.7, 4.3.12 and 4.3.16).
pub fn zip_of(name: &str, content: &[u8]) -> Vec<u8> {
    let crc = crc32(content);
    let (size, name_size) = ((content.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
    // Version, flags, method, time, date; then checksum, both sizes, name size, extra size.
    let mut shared = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
    shared.extend(crc.to_le_bytes());
    shared.extend(size);
    shared.extend(size);
    shared.extend(name_size);
    shared.extend([0, 0]);

    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend(&shared);
    zip.extend(name.as_bytes());
    zip.extend(content);
    let directory = zip.len() as u32;
    zip.extend(b"PK\x01\x02\x14\x00");
    zip.extend(&shared);
    // Comment size, disk, attributes and the offset of the member, all zero.
    zip.extend([0; 14]);
    zip.extend(name.as_bytes());
    let directory_size = zip.len() as u32 - directory;
    zip.extend(b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00");
    zip.extend(directory_size.to_le_bytes());
    zip.extend(directory.to_le_bytes());
    zip.extend([0, 0]);
    zip
}

/// A picture of one pixel: something harmless with a signature.
pub fn gif() -> Vec<u8> {
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;".to_vec()
}

/// Bytes that look like nothing and repeat for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            // Steele and Vigna's splitmix64 increments and one multiplication: enough to defeat compression.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            ((state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8
        })
        .collect()
}

/// The checksum of zip and gzip (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_file_is_whole_and_masked_on_disk() {
        let eicar = eicar();
        assert_eq!(crc32(&eicar), 0x6851_cf3c);
        assert_ne!(EICAR_MASKED.as_slice(), eicar);
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_archive_ends_with_its_directory() {
        let zip = zip_of("a.txt", b"hello");
        assert_eq!(zip.len(), 30 + 5 + 5 + 46 + 5 + 22);
        assert_eq!(&zip[zip.len() - 22..zip.len() - 18], b"PK\x05\x06");
    }

    #[test]
    fn noise_repeats_and_fills_the_range() {
        assert_eq!(noise(7, 100), noise(7, 100));
        let noise = noise(7, 100_000);
        assert!((0..=255).all(|byte| noise.contains(&byte)));
    }
}
