//! Replays the corpora of this crate's fuzz targets and what once went wrong in them.

use testkit::replay;

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), scan::fuzz::$target);
            }
        )*
    };
}

replays! {
    scan_file
    scan_zip
    scan_sevenz
    scan_rar
    scan_gzip
    scan_bzip2
    scan_xz
    scan_lzip
    scan_lzma
    scan_zstd
    scan_lz4
    scan_compress
    scan_tar
    scan_cpio
    scan_ar
    scan_rpm
    scan_cab
    scan_lzh
    scan_iso
    scan_ole
    scan_onenote
    scan_pdf
    scan_rtf
    scan_eml
    scan_carrier
    scan_vba
    scan_signatures
    scan_frame
}
