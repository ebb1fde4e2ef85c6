//! Values element by element: one resumable walk that serves small values (all at once) and large ones (as they come).

use std::convert::Infallible;

use super::blob::{Listpack, Ziplist, intset, zipmap};
use super::cursor::{Cursor, Fault, Read, push_decimal};
use super::stream::{self, Tail};
use super::{Family, Kind, Part};

/// Takes parts; its error stops the walk.
pub(super) type Emit<'e, E> = &'e mut dyn FnMut(Part<'_>) -> Result<(), E>;

/// A walk's error: ours, or that of whoever takes the parts.
pub(super) enum Stop<E> {
    Fault(Fault),
    Taker(E),
}

impl<E> From<Fault> for Stop<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The kind of a type number, if we know it.
pub fn kind(code: u8, family: Family) -> Option<Kind> {
    Some(match code {
        0 => Kind::String,
        1 | 10 | 14 | 18 => Kind::List,
        2 | 11 | 20 => Kind::Set,
        3 | 5 | 12 | 17 => Kind::Zset,
        4 | 9 | 13 | 16 | 22 => Kind::Hash,
        23..=25 if family == Family::Redis => Kind::Hash,
        15 | 19 | 21 => Kind::Stream,
        26 | 27 if family == Family::Redis => Kind::Stream,
        7 => Kind::Module,
        28 if family == Family::Redis => Kind::Array,
        _ => return None,
    })
}

/// A walk through one value.
#[derive(Debug)]
pub(super) struct Walk {
    code: u8,
    family: Family,
    /// Elements to come; `None` before their number was read.
    left: Option<u64>,
    /// What stands behind the nodes of a stream, once it is reached.
    tail: Option<Tail>,
    /// Type 24: the earliest expiry of a field.
    min_expiry: u64,
}

impl Walk {
    pub(super) fn new(code: u8, family: Family) -> Self {
        Self { code, family, left: None, tail: None, min_expiry: 0 }
    }

    /// True for values that can be taken element by element from the file.
    pub(super) fn can_stream(code: u8, family: Family) -> bool {
        kind(code, family).is_some_and(|kind| !matches!(kind, Kind::String | Kind::Module | Kind::Array))
    }

    /// Reads one element at the cursor and emits its parts; true once the value is over. On [`Fault::More`] nothing was
    /// emitted for the element that is cut off, the walk is where it was, and the cursor is to be put back.
    pub(super) fn step<E>(&mut self, cursor: &mut Cursor<'_>, emit: Emit<'_, E>) -> Result<bool, Stop<E>> {
        let take = |emitted: Result<(), E>| emitted.map_err(Stop::Taker);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        if let 9..=13 | 16 | 17 | 20 | 25 = self.code {
            self.blob(cursor, emit)?;
            return Ok(true);
        }
        if self.code == 23 {
            let text = cursor.text()?;
            listpack_hash_with_expiry(text.decode(&mut one)?, emit)?;
            return Ok(true);
        }
        let Some(left) = self.left else {
            let min_expiry = if self.code == 24 { cursor.u64_le()? } else { 0 };
            self.left = Some(cursor.length()?);
            self.min_expiry = min_expiry;
            return Ok(self.left == Some(0) && !self.is_stream());
        };
        if left == 0 {
            return self.tail.get_or_insert_with(|| Tail::new(self.code)).step(cursor, emit);
        }
        match self.code {
            1 => {
                let item = cursor.text()?;
                take(emit(Part::ListItem(item.decode(&mut one)?)))?;
            }
            2 => {
                let member = cursor.text()?;
                take(emit(Part::SetMember(member.decode(&mut one)?)))?;
            }
            3 | 5 => {
                let member = cursor.text()?;
                let score = if self.code == 3 { cursor.old_double()? } else { f64::from_le_bytes(cursor.array()?) };
                take(emit(Part::ZsetMember { member: member.decode(&mut one)?, score }))?;
            }
            4 => {
                let (field, value) = (cursor.text()?, cursor.text()?);
                let (field, value) = (field.decode(&mut one)?, value.decode(&mut two)?);
                take(emit(Part::HashField { field, value, expire_at_ms: None }))?;
            }
            22 if self.family == Family::Valkey => {
                let (field, value) = (cursor.text()?, cursor.text()?);
                let expiry = i64::from_le_bytes(cursor.array()?);
                let (field, value) = (field.decode(&mut one)?, value.decode(&mut two)?);
                take(emit(Part::HashField { field, value, expire_at_ms: u64::try_from(expiry).ok() }))?;
            }
            22 | 24 => {
                let expiry = match cursor.length()? {
                    0 => None,
                    at if self.code == 22 => Some(at),
                    after => Some(self.min_expiry.checked_add(after - 1).ok_or(Fault::Bad("field expiry"))?),
                };
                let (field, value) = (cursor.text()?, cursor.text()?);
                let (field, value) = (field.decode(&mut one)?, value.decode(&mut two)?);
                take(emit(Part::HashField { field, value, expire_at_ms: expiry }))?;
            }
            14 => {
                let node = cursor.text()?;
                let mut list = Ziplist::new(node.decode(&mut one)?)?;
                while let Some(item) = list.next()? {
                    take(emit(Part::ListItem(item.text(&mut two))))?;
                }
            }
            18 => {
                let container = cursor.length()?;
                let node = cursor.text()?;
                let node = node.decode(&mut one)?;
                match container {
                    1 => take(emit(Part::ListItem(node)))?,
                    2 => {
                        let mut list = Listpack::new(node)?;
                        while let Some(item) = list.next()? {
                            take(emit(Part::ListItem(item.text(&mut two))))?;
                        }
                    }
                    _ => return Err(Fault::Bad("quicklist container").into()),
                }
            }
            _ if self.is_stream() => stream::node(cursor, emit)?,
            _ => return Err(Fault::Unknown("value type").into()),
        }
        self.left = Some(left - 1);
        Ok(left == 1 && !self.is_stream())
    }

    fn is_stream(&self) -> bool {
        kind(self.code, self.family) == Some(Kind::Stream)
    }

    /// A value that is one compact blob.
    fn blob<E>(&self, cursor: &mut Cursor<'_>, emit: Emit<'_, E>) -> Result<(), Stop<E>> {
        let (mut whole, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
        let min_expiry_first = self.code == 25;
        if min_expiry_first {
            cursor.u64_le()?;
        }
        let text = cursor.text()?;
        let data = text.decode(&mut whole)?;
        let take = |emitted: Result<(), E>| emitted.map_err(Stop::Taker);
        match self.code {
            9 => {
                let mut refused = None;
                zipmap(data, |field, value| {
                    emit(Part::HashField { field, value, expire_at_ms: None }).map_err(|error| {
                        refused = Some(error);
                        Fault::Bad("taker")
                    })
                })
                .map_err(|fault| refused.take().map_or(Stop::Fault(fault), Stop::Taker))?;
            }
            10 => {
                let mut list = Ziplist::new(data)?;
                while let Some(item) = list.next()? {
                    take(emit(Part::ListItem(item.text(&mut one))))?;
                }
            }
            11 => {
                if data.len() < 8 {
                    return Err(Fault::Bad("intset header").into());
                }
                for member in intset(data)? {
                    one.clear();
                    push_decimal(&mut one, member);
                    take(emit(Part::SetMember(&one)))?;
                }
            }
            12 => {
                let mut list = Ziplist::new(data)?;
                while let Some(member) = list.next()? {
                    let score = list.expect()?.double()?;
                    take(emit(Part::ZsetMember { member: member.text(&mut one), score }))?;
                }
            }
            13 => {
                let mut list = Ziplist::new(data)?;
                while let Some(field) = list.next()? {
                    let value = list.expect()?;
                    let (field, value) = (field.text(&mut one), value.text(&mut two));
                    take(emit(Part::HashField { field, value, expire_at_ms: None }))?;
                }
            }
            16 => {
                let mut list = Listpack::new(data)?;
                while let Some(field) = list.next()? {
                    let value = list.expect()?;
                    let (field, value) = (field.text(&mut one), value.text(&mut two));
                    take(emit(Part::HashField { field, value, expire_at_ms: None }))?;
                }
            }
            17 => {
                let mut list = Listpack::new(data)?;
                while let Some(member) = list.next()? {
                    let score = list.expect()?.double()?;
                    take(emit(Part::ZsetMember { member: member.text(&mut one), score }))?;
                }
            }
            20 => {
                let mut list = Listpack::new(data)?;
                while let Some(member) = list.next()? {
                    take(emit(Part::SetMember(member.text(&mut one))))?;
                }
            }
            _ => listpack_hash_with_expiry(data, emit)?,
        }
        Ok(())
    }
}

/// field, value, absolute expiry or 0 (`t_hash.c`, 7.4).
fn listpack_hash_with_expiry<E>(data: &[u8], emit: Emit<'_, E>) -> Result<(), Stop<E>> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let mut list = Listpack::new(data)?;
    while let Some(field) = list.next()? {
        let value = list.expect()?;
        let expiry = list.expect()?.integer()?;
        let expire_at_ms = u64::try_from(expiry).ok().filter(|at| *at > 0);
        let (field, value) = (field.text(&mut one), value.text(&mut two));
        emit(Part::HashField { field, value, expire_at_ms }).map_err(Stop::Taker)?;
    }
    Ok(())
}

/// Moves the cursor behind a value without looking into it.
pub(super) fn skip(code: u8, family: Family, cursor: &mut Cursor<'_>) -> Read<()> {
    match code {
        0 | 9..=13 | 16 | 17 | 20 => drop(cursor.text()?),
        1 | 2 | 14 => texts(cursor, 1)?,
        3 => {
            for _ in 0..cursor.length()? {
                cursor.text()?;
                cursor.old_double()?;
            }
        }
        4 => texts(cursor, 2)?,
        5 => {
            for _ in 0..cursor.length()? {
                cursor.text()?;
                cursor.take(8)?;
            }
        }
        7 => {
            cursor.length()?;
            module_items(cursor)?;
        }
        18 => {
            for _ in 0..cursor.length()? {
                cursor.length()?;
                cursor.text()?;
            }
        }
        22 if family == Family::Valkey => {
            for _ in 0..cursor.length()? {
                cursor.text()?;
                cursor.text()?;
                cursor.take(8)?;
            }
        }
        22 | 24 => {
            if code == 24 {
                cursor.take(8)?;
            }
            for _ in 0..cursor.length()? {
                cursor.length()?;
                cursor.text()?;
                cursor.text()?;
            }
        }
        23 => drop(cursor.text()?),
        25 => {
            cursor.take(8)?;
            cursor.text()?;
        }
        15 | 19 | 21 | 26 | 27 => {
            for _ in 0..cursor.length()? {
                cursor.text()?;
                cursor.text()?;
            }
            let mut tail = Tail::new(code);
            loop {
                match tail.step::<Infallible>(cursor, &mut |_| Ok(())) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(Stop::Fault(fault)) => return Err(fault),
                    Err(Stop::Taker(never)) => match never {},
                }
            }
        }
        28 => array(cursor)?,
        _ => return Err(Fault::Unknown("value type")),
    }
    Ok(())
}

fn texts(cursor: &mut Cursor<'_>, each: u32) -> Read<()> {
    for _ in 0..cursor.length()? {
        for _ in 0..each {
            cursor.text()?;
        }
    }
    Ok(())
}

/// `rdbLoadCheckModuleValue`: self-describing, so it can be passed over without the module.
pub(super) fn module_items(cursor: &mut Cursor<'_>) -> Read<()> {
    loop {
        match cursor.length()? {
            0 => return Ok(()),
            1 | 2 => drop(cursor.length()?),
            3 => drop(cursor.take(4)?),
            4 => drop(cursor.take(8)?),
            5 => drop(cursor.text()?),
            _ => return Err(Fault::Bad("module item")),
        }
    }
}

/// Redis 8.8's arrays.
fn array(cursor: &mut Cursor<'_>) -> Read<()> {
    let count = cursor.length()?;
    if cursor.length()? != 0 {
        cursor.length()?;
    }
    for _ in 0..count {
        cursor.length()?;
        match cursor.length()? {
            0 | 3 => drop(cursor.text()?),
            1 | 2 => drop(cursor.take(8)?),
            _ => return Err(Fault::Bad("array element")),
        }
    }
    Ok(())
}
