// Numbers, units and times for people: in the reader's locale and time zone.

import { Quality, QualityTest } from "../gen/sensormesh/telemetry/v1/columns_pb";

/** Units whose UCUM code is not what people write, and how many decimals a value is shown with. */
const units: Record<string, { symbol: string; decimals?: number }> = {
  Cel: { symbol: "°C", decimals: 1 },
  "[degF]": { symbol: "°F", decimals: 1 },
  K: { symbol: "K", decimals: 1 },
  "%": { symbol: "%", decimals: 1 },
  "[ppm]": { symbol: "ppm", decimals: 0 },
  "[ppb]": { symbol: "ppb", decimals: 0 },
  "ug/m3": { symbol: "µg/m³", decimals: 1 },
  hPa: { symbol: "hPa", decimals: 1 },
  "kW.h": { symbol: "kWh", decimals: 2 },
  "W.h": { symbol: "Wh" },
  "dB[SPL]": { symbol: "dB", decimals: 1 },
  "dB[mW]": { symbol: "dBm", decimals: 0 },
  "W/m2": { symbol: "W/m²", decimals: 0 },
  V: { symbol: "V", decimals: 1 },
  A: { symbol: "A", decimals: 2 },
  m3: { symbol: "m³" },
  deg: { symbol: "°", decimals: 0 },
  By: { symbol: "B" },
  "By/s": { symbol: "B/s" },
  "1": { symbol: "" },
};

/** Units that are shown in thousands when they grow. */
const prefixed = new Set(["By", "By/s", "W", "W.h", "Hz", "Pa"]);
const prefixes = ["", "k", "M", "G", "T", "P"];

const numbers = new Map<string, Intl.NumberFormat>();

function number(options: Intl.NumberFormatOptions): Intl.NumberFormat {
  const key = JSON.stringify(options);
  let format = numbers.get(key);
  if (!format) numbers.set(key, (format = new Intl.NumberFormat(undefined, options)));
  return format;
}

/** How a unit is shown: `Cel` as `°C`. */
export function unitSymbol(code: string): string {
  return units[code]?.symbol ?? code;
}

/** A unit scaled for values up to `largest`: divide by `factor`, write `symbol` after it. */
export function scale(code: string, largest: number): { factor: number; symbol: string } {
  let power = 0;
  if (prefixed.has(code)) {
    for (let rest = Math.abs(largest); rest >= 1000 && power < prefixes.length - 1; rest /= 1000) power += 1;
  }
  return { factor: 1000 ** power, symbol: prefixes[power] + unitSymbol(code) };
}

/** A value and its unit, ready to show. */
export function measured(value: number | undefined, code: string): { text: string; unit: string } {
  if (value === undefined) return { text: "–", unit: "" };
  if (code === "s" && value >= 120) return { text: span(value * 1000), unit: "" };
  const { factor, symbol } = scale(code, value);
  const scaled = value / factor;
  const decimals = units[code]?.decimals;
  if (factor > 1 || decimals === undefined) {
    const size = Math.abs(scaled);
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : 2;
    const whole = factor === 1 && Number.isInteger(scaled);
    return { text: plain(scaled, whole ? 0 : size > 0 && size < 0.01 ? 4 : digits, whole), unit: symbol };
  }
  return { text: plain(scaled, decimals, false), unit: symbol };
}

function plain(value: number, digits: number, whole: boolean): string {
  const text = number({ minimumFractionDigits: whole ? 0 : digits, maximumFractionDigits: digits }).format(value);
  return text.replace(/^-(0(?:[.,]0+)?)$/, "$1");
}

/** The decimals of a chart's axis with ticks this far apart. */
export function axisNumber(value: number, step: number): string {
  const digits = step >= 1 ? 0 : Math.min(6, Math.ceil(-Math.log10(step)));
  return number({ minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function count(value: number): string {
  return number({}).format(value);
}

const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const minute = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const year = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });

/** A moment: the time alone where it is today. */
export function moment(ms: number): string {
  return new Date(ms).toDateString() === new Date().toDateString() ? time.format(ms) : dateTime.format(ms);
}

export function fullMoment(ms: number): string {
  return dateTime.format(ms);
}

/** A tick of a time axis whose ticks are `step` seconds apart. */
export function tick(ms: number, step: number): string {
  const date = new Date(ms);
  const midnight = date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0;
  if (step >= 28 * 86_400) return year.format(date);
  if (step >= 86_400 || (midnight && step >= 60)) return day.format(date);
  return step < 60 ? time.format(date) : minute.format(date);
}

/** How long ago, in words. */
export function ago(ms: number, now: number): string {
  const seconds = Math.round((now - ms) / 1000);
  if (seconds < 2) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return moment(ms);
}

/** How long, in words. */
export function span(ms: number): string {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return `${Math.max(0, Math.floor(ms / 1000))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

const spelled: Record<string, string> = {
  co: "CO",
  co2: "CO₂",
  no2: "NO₂",
  o3: "O₃",
  nox: "NOₓ",
  voc: "VOC",
  tvoc: "TVOC",
  pm1: "PM1",
  pm25: "PM2.5",
  pm10: "PM10",
  cpu: "CPU",
  rh: "RH",
  rssi: "RSSI",
  gpu: "GPU",
  nvme: "NVMe",
  ac: "AC",
  dc: "DC",
};

/** A metric's or quantity's name as a label: `carbon_dioxide` as `Carbon dioxide`, `co2` as `CO₂`. */
export function label(name: string): string {
  const parts = name.split(/[_\s-]+/).filter(Boolean);
  const shown = parts.map((part) => spelled[part.toLowerCase()] ?? part).join(" ");
  return shown.charAt(0).toUpperCase() + shown.slice(1);
}

/** Metrics people look for first come first. */
const first = ["carbon_dioxide", "temperature", "humidity", "pm25", "voc", "illuminance", "occupancy", "sound_level"];

export function byImportance(a: { quantity: string; metric: string }, b: { quantity: string; metric: string }): number {
  const rank = (quantity: string) => (first.includes(quantity) ? first.indexOf(quantity) : first.length);
  return rank(a.quantity) - rank(b.quantity) || a.metric.localeCompare(b.metric, undefined, { numeric: true });
}

/** What the tests of readings are called. */
const TESTS: Partial<Record<QualityTest, string>> = {
  [QualityTest.GROSS_RANGE]: "outside the usual range",
  [QualityTest.SPIKE]: "stands out from its neighbours",
  [QualityTest.RATE_OF_CHANGE]: "changed too fast",
  [QualityTest.FLAT_LINE]: "has not changed for too long",
  [QualityTest.GAP]: "came after a gap",
};

/** What is to be said of a reading's quality; undefined where nothing is. */
export function doubt(quality: Quality | undefined, tests: QualityTest[]): { word: string; why: string; bad: boolean } | undefined {
  const why = tests.map((test) => TESTS[test] ?? "").filter(Boolean).join(", ");
  switch (quality) {
    case Quality.SUSPECT:
      return { word: "suspect", why, bad: false };
    case Quality.FAIL:
      return { word: "wrong", why, bad: true };
    case Quality.OUT_OF_RANGE:
      return { word: "out of range", why: "outside the range of what is possible", bad: true };
    case Quality.MISSING:
      return { word: "no value", why, bad: true };
    default:
      return undefined;
  }
}
