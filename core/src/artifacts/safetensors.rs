//! The head of a safetensors file: of what types its numbers are.
//!
//! Owns: the length in front, and the JSON behind it, with bounds. Must never do: panic, or believe
//! a length.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Heads of real files have some megabytes at most.
pub const LARGEST_HEAD: u64 = 32 << 20;
/// The length that stands in front.
const PREFIX: usize = 8;

/// Why a head cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsError {
    /// So many bytes are needed.
    #[error("its head ends too soon: it is to have {0} bytes")]
    Short(u64),
    /// Larger than any head is.
    #[error("its head is to have {0} bytes, which is too much")]
    Large(u64),
    /// No JSON, or other JSON.
    #[error("its head is broken")]
    Broken,
}

/// How many bytes of the file are its head, the length in front among them.
pub fn head_size(begin: &[u8]) -> Result<u64, SafetensorsError> {
    let prefix = begin.first_chunk::<PREFIX>().ok_or(SafetensorsError::Short(PREFIX as u64))?;
    let length = u64::from_le_bytes(*prefix);
    match length.checked_add(PREFIX as u64) {
        Some(size) if size <= LARGEST_HEAD => Ok(size),
        _ => Err(SafetensorsError::Large(length)),
    }
}

/// Types of numbers, as the format names them, to how many numbers have them.
pub fn read(head: &[u8]) -> Result<BTreeMap<String, u64>, SafetensorsError> {
    #[derive(Deserialize)]
    struct Tensor {
        #[serde(default)]
        dtype: Value,
        #[serde(default)]
        shape: Value,
    }
    let size = head_size(head)?;
    let end = usize::try_from(size).map_err(|_| SafetensorsError::Large(size))?;
    let json = head.get(PREFIX..end).ok_or(SafetensorsError::Short(size))?;
    let tensors: BTreeMap<String, Tensor> =
        serde_json::from_slice(json).map_err(|_| SafetensorsError::Broken)?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (_, tensor) in tensors.iter().filter(|(name, _)| *name != "__metadata__") {
        let Some(dtype) = tensor.dtype.as_str() else { return Err(SafetensorsError::Broken) };
        let shape = tensor.shape.as_array().ok_or(SafetensorsError::Broken)?;
        let sizes = shape.iter().map(|size| size.as_u64().unwrap_or(0));
        let count = counts.entry(dtype.to_owned()).or_default();
        *count = count.saturating_add(sizes.fold(1, u64::saturating_mul));
    }
    Ok(counts)
}

/// The type of most numbers, by the name that people use.
pub fn precision(counts: &BTreeMap<String, u64>) -> Option<&'static str> {
    let (most, _) = counts.iter().max_by_key(|(_, count)| **count)?;
    precision_of(most)
}

/// A type by the name that people use; those that only pack others have none.
pub fn precision_of(dtype: &str) -> Option<&'static str> {
    let plain = dtype.trim_start_matches("torch.").to_ascii_uppercase();
    match plain.as_str() {
        "BF16" | "BFLOAT16" => Some("BF16"),
        "F16" | "FLOAT16" | "HALF" => Some("FP16"),
        "F32" | "FLOAT32" | "FLOAT" => Some("FP32"),
        other if other.starts_with("F8") || other.starts_with("FLOAT8") => Some("FP8"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(json: &str) -> Vec<u8> {
        [&(json.len() as u64).to_le_bytes(), json.as_bytes(), b"weights"].concat()
    }

    #[test]
    fn the_type_of_most_numbers_is_told() {
        for (json, want) in [
            (
                r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[4,4],"data_offsets":[0,32]}}"#,
                Some("BF16"),
            ),
            (r#"{"a":{"dtype":"F16","shape":[9]},"b":{"dtype":"F32","shape":[8]}}"#, Some("FP16")),
            (
                r#"{"a":{"dtype":"F8_E4M3","shape":[100]},"s":{"dtype":"F32","shape":[]}}"#,
                Some("FP8"),
            ),
            (r#"{"a":{"dtype":"I32","shape":[100]},"s":{"dtype":"F16","shape":[3]}}"#, None),
            (r#"{"a":{"dtype":"F32","shape":[18446744073709551615,9]}}"#, Some("FP32")),
            (
                r#"{"__metadata__":{"dtype":"x","shape":"y"},"a":{"dtype":"F16","shape":[1]}}"#,
                Some("FP16"),
            ),
            ("{}", None),
        ] {
            assert_eq!(precision(&read(&file(json)).unwrap()), want, "{json}");
        }
    }

    #[test]
    fn lengths_are_not_believed() {
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(read(&huge), Err(SafetensorsError::Large(u64::MAX)));
        assert_eq!(read(&file("{}")[..9]), Err(SafetensorsError::Short(10)));
        assert_eq!(read(b"short"), Err(SafetensorsError::Short(8)));
        for bad in ["[]", "no", r#"{"a":1}"#, r#"{"a":{"shape":[1]}}"#, r#"{"a":{"dtype":"F16"}}"#]
        {
            assert_eq!(read(&file(bad)), Err(SafetensorsError::Broken), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0u64..300) {
            let _ = read(&bytes);
            let _ = read(&[&length.to_le_bytes()[..], &bytes].concat());
        }
    }
}
