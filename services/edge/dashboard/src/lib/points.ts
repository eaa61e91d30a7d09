// The points of a chart: whole intervals from the server's history, and single readings from there on.

/** A summary of one interval, or one reading where `min` and `max` are the value itself. Times in ms. */
export interface Point {
  time: number;
  mean: number;
  min: number;
  max: number;
}

/** Readings in order of time, each time once. */
export class Readings {
  times: number[] = [];
  values: number[] = [];

  /** Takes a reading; one of a known time takes the other's place. */
  add(time: number, value: number) {
    const at = this.#position(time);
    if (this.times[at] === time) {
      this.values[at] = value;
    } else if (at === this.times.length) {
      this.times.push(time);
      this.values.push(value);
    } else {
      this.times.splice(at, 0, time);
      this.values.splice(at, 0, value);
    }
  }

  /** Forgets what is older. */
  trim(before: number) {
    const at = this.#position(before);
    if (at > 0) {
      this.times.splice(0, at);
      this.values.splice(0, at);
    }
  }

  /** The first index whose time is not before `time`. */
  #position(time: number): number {
    let low = 0;
    let high = this.times.length;
    if (high && time > this.times[high - 1]!) return high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle]! < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Single readings as points, from a time on. */
  points(from: number): Point[] {
    const points: Point[] = [];
    for (let at = this.#position(from); at < this.times.length; at++) {
      const value = this.values[at]!;
      points.push({ time: this.times[at]!, mean: value, min: value, max: value });
    }
    return points;
  }

  /** Summaries of the intervals that begin at `from` or later, aligned to the Unix epoch as the server's are. */
  buckets(from: number, interval: number): Point[] {
    const points: Point[] = [];
    let sum = 0;
    let many = 0;
    for (let at = this.#position(from); at < this.times.length; at++) {
      const start = Math.floor(this.times[at]! / interval) * interval;
      const value = this.values[at]!;
      const last = points.at(-1);
      if (last?.time === start) {
        sum += value;
        many += 1;
        last.mean = sum / many;
        last.min = Math.min(last.min, value);
        last.max = Math.max(last.max, value);
      } else {
        sum = value;
        many = 1;
        points.push({ time: start, mean: value, min: value, max: value });
      }
    }
    return points;
  }
}

/** Chart columns with a gap where nothing came for several times as long as usual. Times in seconds. */
export function columns(points: Point[], interval: number): [number[], ...(number | null)[][]] {
  const times: number[] = [];
  const mean: (number | null)[] = [];
  const min: (number | null)[] = [];
  const max: (number | null)[] = [];
  const steps = points.slice(1).map((point, at) => point.time - points[at]!.time);
  const usual = steps.sort((a, b) => a - b)[steps.length >> 1] ?? 0;
  const gap = Math.max(interval * 1.5, usual * 4);
  let before: number | undefined;
  for (const point of points) {
    if (before !== undefined && point.time - before > gap) {
      times.push((before + point.time) / 2000);
      for (const column of [mean, min, max]) column.push(null);
    }
    times.push(point.time / 1000);
    mean.push(point.mean);
    min.push(point.min);
    max.push(point.max);
    before = point.time;
  }
  return [times, mean, min, max];
}
