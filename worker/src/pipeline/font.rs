//! What a font file calls itself.

/// Family name (OpenType `name` table, id 1) of a font, or of the first of a collection. `None`
/// for what is no such file.
pub(super) fn family(data: &[u8]) -> Option<String> {
    let start = match data.get(..4)? {
        b"ttcf" => u32_at(data, 12)? as usize,
        _ => 0,
    };
    let tables = usize::from(u16_at(data, start.checked_add(4)?)?);
    let name = (0..tables).find_map(|n| {
        let entry = start.checked_add(12 + n * 16)?;
        (data.get(entry..entry.checked_add(4)?)? == b"name")
            .then(|| u32_at(data, entry + 8))
            .flatten()
    })? as usize;
    let count = usize::from(u16_at(data, name.checked_add(2)?)?);
    let strings = name.checked_add(usize::from(u16_at(data, name + 4)?))?;
    let mut roman = None;
    for n in 0..count {
        let record = name.checked_add(6 + n * 12)?;
        let platform = u16_at(data, record)?;
        if u16_at(data, record + 6)? != 1 {
            continue;
        }
        let length = usize::from(u16_at(data, record + 8)?);
        let at = strings.checked_add(usize::from(u16_at(data, record + 10)?))?;
        let bytes = data.get(at..at.checked_add(length)?)?;
        match platform {
            // Windows: UTF-16, big endian.
            3 => {
                let units: Vec<u16> = bytes
                    .chunks_exact(2)
                    .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                    .collect();
                return Some(String::from_utf16_lossy(&units));
            }
            1 if bytes.is_ascii() => {
                roman = Some(String::from_utf8_lossy(bytes).into_owned());
            }
            _ => {}
        }
    }
    roman
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(data, at)?) << 16 | u32::from(u16_at(data, at + 2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one `name` table that holds these (platform, bytes) as families.
    fn font(names: &[(u16, &[u8])]) -> Vec<u8> {
        let mut table = Vec::new();
        for word in [0, names.len() as u16, 6 + 12 * names.len() as u16] {
            table.extend(word.to_be_bytes());
        }
        let mut offset = 0;
        for (platform, bytes) in names {
            for word in [*platform, 0, 0, 1, bytes.len() as u16, offset] {
                table.extend(word.to_be_bytes());
            }
            offset += bytes.len() as u16;
        }
        for (_, bytes) in names {
            table.extend(*bytes);
        }
        let mut file = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        file.extend(b"name");
        file.extend([0; 4]);
        file.extend(28_u32.to_be_bytes());
        file.extend((table.len() as u32).to_be_bytes());
        file.extend(table);
        file
    }

    #[test]
    fn a_family_is_read_and_damage_is_none() {
        let wide: Vec<u8> = "Noto Sans Medium"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        let file = font(&[(1, b"Noto"), (3, &wide)]);
        assert_eq!(family(&file).as_deref(), Some("Noto Sans Medium"));
        assert_eq!(family(&font(&[(1, b"Noto")])).as_deref(), Some("Noto"));
        for end in 0..file.len() {
            // Whatever is left, no panic.
            let _ = family(&file[..end]);
        }
        assert_eq!(family(b"no font at all"), None);
        assert_eq!(family(&[0xff; 64]), None);
    }
}
