//! Devices: proofs, plans on real Vulkan frames (Mesa's software driver), and drivers that fail.

mod golden;
mod probe;
