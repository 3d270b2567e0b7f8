"""What octets are, by what they look like and not by what they are called; the words for kinds of files.

`Sniffer` uses libmagic and belongs into a worker process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailgate.content.office import OLE_MAGIC

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHIVES", "COMPRESSED", "FAMILIES", "Sniffer", "fits_extension", "is_document", "matches_kind"]

#: Octets of a file that libmagic is given; what tells an image of a CD lies at 32 KiB.
_LOOK_AT = 128 * 1024

#: Kinds of files by a word, each with its MIME types as libmagic gives them.
FAMILIES: Mapping[str, frozenset[str]] = {
    "executable": frozenset({
        "application/x-dosexec", "application/vnd.microsoft.portable-executable", "application/x-msdownload",
        "application/x-executable", "application/x-pie-executable", "application/x-sharedlib", "application/x-object",
        "application/x-mach-binary", "application/x-java-applet", "application/x-coredump",
        "application/x-ms-ne-executable",
    }),
    "script": frozenset({
        "text/x-shellscript", "text/x-msdos-batch", "text/x-python", "text/x-script.python", "text/x-perl",
        "text/x-ruby", "text/x-script", "text/x-php", "text/x-tcl", "text/x-lua", "text/javascript",
        "application/javascript", "text/vbscript",
        "text/x-powershell",
    }),
    "shortcut": frozenset({"application/x-ms-shortcut", "application/x-mswinurl", "application/x-wine-shortcut"}),
    "disk-image": frozenset({
        "application/x-iso9660-image", "application/x-virtualbox-vhd", "application/x-virtualbox-vhdx",
        "application/x-qemu-disk", "application/x-apple-diskimage", "application/x-raw-disk-image",
        "application/x-udf-image",
    }),
    "installer": frozenset({"application/x-msi", "application/vnd.debian.binary-package", "application/x-rpm",
                            "application/vnd.android.package-archive"}),
    "help": frozenset({"application/vnd.ms-htmlhelp", "application/x-chm", "application/winhelp"}),
    "notebook": frozenset({"application/onenote"}),
    "java": frozenset({"application/java-archive", "application/x-java-archive"}),
    "flash": frozenset({"application/x-shockwave-flash", "application/vnd.adobe.flash.movie"}),
}  # fmt: skip

#: What libarchive opens; and what holds one file only, compressed.
COMPRESSED = frozenset(
    f"application/{one}"
    for one in ("gzip", "x-gzip", "x-bzip2", "x-xz", "x-lzma", "zstd", "x-compress", "x-lz4", "x-lzip")
)
ARCHIVES = COMPRESSED | frozenset(
    f"application/{one}"
    for one in (
        *("zip", "x-zip-compressed", "x-7z-compressed", "x-rar", "vnd.rar", "x-tar", "x-cpio", "x-archive", "x-ace"),
        *("vnd.ms-cab-compressed", "x-lzh-compressed", "x-lharc", "x-iso9660-image", "x-xar", "java-archive", "x-lha"),
        *("epub+zip", "vnd.android.package-archive", "vnd.debian.binary-package", "x-arj"),
    )
)

#: What stands in the types of documents.
_DOCUMENTS = ("pdf", "office", "opendocument", "msword", "ole-storage", "cdfv2", "ms-excel", "ms-powerpoint", "rtf")

#: Extensions whose files always look like one of these types, or beginnings of types.
_LOOKS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "gif", "bmp", "webp", "tif", "tiff", "heic", "ico"), ("image/",)),
    "pdf": ("application/pdf",),
    **dict.fromkeys(("mp3", "wav", "ogg", "flac", "m4a"), ("audio/", "video/", "application/ogg")),
    **dict.fromkeys(("mp4", "mov", "avi", "mkv", "webm"), ("video/", "audio/")),
    **dict.fromkeys(
        ("docx", "xlsx", "pptx", "docm", "xlsm", "pptm"),
        ("application/vnd.openxmlformats", "application/vnd.ms-", "application/zip", "application/x-ole-storage",
         "application/CDFV2", "application/encrypted"),
    ),
    **dict.fromkeys(("doc", "xls", "ppt"), ("application/", "text/")),
    "zip": ("application/",),
    "7z": ("application/x-7z-compressed",),
    "rar": ("application/x-rar", "application/vnd.rar"),
    **dict.fromkeys(("gz", "tgz"), ("application/gzip", "application/x-gzip")),
    **dict.fromkeys(
        ("txt", "csv", "ics", "vcf", "eml", "log"), ("text/", "message/", "application/json", "application/csv")
    ),
}  # fmt: skip
_SAYS_NOTHING = ("application/octet-stream", "inode/x-empty", "text/plain", "")


def is_document(types: Iterable[str]) -> bool:
    """Whether one of the types is that of a document: PDF, RTF, Office, OpenDocument."""
    return any(word in one for one in types for word in _DOCUMENTS)


def matches_kind(types: Iterable[str], kind: str) -> bool:
    """Whether one of the types is of a kind: a word of FAMILIES, "image/*", or a MIME type."""
    family = FAMILIES.get(kind)
    if family is not None:
        return any(one in family for one in types)
    if kind.endswith("/*"):
        return any(one.startswith(kind[:-1]) for one in types)
    return kind in types


def fits_extension(types: Iterable[str], extension: str) -> bool:
    """Whether what the octets are goes with the extension; True where nothing can be said."""
    looks = _LOOKS.get(extension)
    known = [one for one in types if one not in _SAYS_NOTHING]
    return looks is None or not known or any(one.startswith(looks) for one in known)


class Sniffer:
    """Tells MIME types by libmagic. ImportError where that is not installed."""

    def __init__(self) -> None:
        import magic  # loads a native library: only in a worker process

        self._magic = magic.Magic(mime=True)

    def type_of(self, data: bytes) -> str:
        """The MIME type of what begins so."""
        start = data[:_LOOK_AT]
        if start[:8] == OLE_MAGIC:
            found = self._asked(start)
            return found if found.startswith("application/vnd") or "msi" in found else "application/x-ole-storage"
        if start[:2] == b"#!":
            return "text/x-shellscript" if b"sh" in start[:64] else "text/x-script"
        return self._asked(start)

    def _asked(self, start: bytes) -> str:
        import magic

        try:
            return str(self._magic.from_buffer(start)).lower()
        except magic.MagicException:  # libmagic gives up on some hostile files
            return "application/octet-stream"
