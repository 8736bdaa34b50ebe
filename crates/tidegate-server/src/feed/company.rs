//! The people and things of the imaginary company.

/// Number, name, country.
pub const CUSTOMERS: [(&str, &str, &str); 12] = [
    ("C-1041", "Amara Okafor", "NL"),
    ("C-1042", "Lindqvist & Daughters", "SE"),
    ("C-1057", "Teo Marchetti", "IT"),
    ("C-1063", "Harbour Hotel", "PT"),
    ("C-1070", "Yuki Tanabe", "JP"),
    ("C-1088", "Brennan Boatyard", "IE"),
    ("C-1093", "Sofía Herrera", "ES"),
    ("C-1102", "Nordlys Kajakk", "NO"),
    ("C-1115", "Priya Raman", "IN"),
    ("C-1121", "Atelier Moreau", "FR"),
    ("C-1139", "Oskar Wiśniewski", "PL"),
    ("C-1150", "Kelp & Co.", "GB"),
];
/// Number, name, team.
pub const PEOPLE: [(&str, &str, &str); 9] = [
    ("E-07", "Mirjam de Vries", "warehouse"),
    ("E-11", "Jonas Albrecht", "support"),
    ("E-12", "Chiara Rossi", "support"),
    ("E-15", "Tunde Adeyemi", "warehouse"),
    ("E-18", "Hanne Solberg", "finance"),
    ("E-21", "Samir Haddad", "support"),
    ("E-24", "Elif Kaya", "warehouse"),
    ("E-29", "Padraig Nolan", "purchasing"),
    ("E-33", "Ines Carvalho", "finance"),
];
/// Article number, name, price in cents, and what a full shelf holds.
pub const GOODS: [(&str, &str, u64, u64); 10] = [
    ("SKU-2001", "Oilskin jacket", 18_900, 40),
    ("SKU-2004", "Deck boots", 7_450, 60),
    ("SKU-2010", "Brass lantern", 5_900, 35),
    ("SKU-2016", "Rope, 12 mm, 50 m", 6_280, 50),
    ("SKU-2023", "Tide clock", 12_900, 25),
    ("SKU-2031", "Wool watch cap", 2_950, 90),
    ("SKU-2038", "Chart table lamp", 8_400, 30),
    ("SKU-2042", "Enamel mug", 1_450, 120),
    ("SKU-2055", "Sextant, brass", 34_900, 12),
    ("SKU-2061", "Kayak dry bag, 30 l", 4_300, 70),
];
/// Where parcels are scanned, and where goods come from.
pub const DEPOTS: [&str; 6] = ["Rotterdam", "Hamburg", "Leixões", "Antwerp", "Aarhus", "Le Havre"];
/// The carriers of parcels.
pub const CARRIERS: [&str; 3] = ["Gull Post", "Meridian Freight", "Dockside Express"];
/// The subjects of tickets.
pub const SUBJECTS: [&str; 6] = [
    "Parcel has not moved for two days",
    "Wrong size, can I exchange it?",
    "Invoice shows the old address",
    "Lantern glass arrived cracked",
    "How do I wind the tide clock?",
    "Please cancel one line of my order",
];
