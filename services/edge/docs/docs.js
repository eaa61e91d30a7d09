// Shows /openapi.json, and sends requests from the page.
'use strict';

const node = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== undefined));
  return made;
};

const text = (value) => String(value ?? '').replaceAll('`', '');

let description;

const resolve = (schema) => {
  const name = schema?.$ref?.split('/').pop();
  return name ? { name, ...description.components.schemas[name] } : schema ?? {};
};

const kind = (schema) => {
  const found = resolve(schema);
  if (found.type === 'array') return `${kind(found.items)}[]`;
  if (found.additionalProperties) return `map of ${kind(found.additionalProperties)}`;
  return found.name ?? [found.type, found.format].filter(Boolean).join(' ') ?? '';
};

// An example with every field, for the body of a try.
const example = (schema, depth = 0) => {
  const found = resolve(schema);
  if (found.enum) return found.enum[1] ?? found.enum[0];
  if (found.type === 'array') return depth > 3 ? [] : [example(found.items, depth + 1)];
  if (found.properties) {
    if (depth > 3) return {};
    return Object.fromEntries(Object.entries(found.properties).map(([name, inner]) => [name, example(inner, depth + 1)]));
  }
  if (found.format === 'date-time') return new Date().toISOString();
  return { number: 0, integer: 0, boolean: false, object: {} }[found.type] ?? '';
};

const rows = (heading, list) => list.length === 0 ? undefined : node('table', {},
  node('tr', {}, node('th', {}, heading), node('th', {}, 'type'), node('th', {}, '')),
  ...list.map(([name, type, about]) => node('tr', {},
    node('td', {}, node('code', {}, name)), node('td', {}, type), node('td', {}, text(about)))));

const fields = (heading, schema) => {
  const found = resolve(schema?.type === 'array' ? schema.items : schema);
  return rows(heading, Object.entries(found.properties ?? {}).map(([name, inner]) => [name, kind(inner), inner.description]));
};

const attempt = (verb, path, operation, body) => {
  const inputs = operation.parameters.map((parameter) => [parameter, node('input', { 'aria-label': parameter.name })]);
  const area = body ? node('textarea', { rows: 6, 'aria-label': 'body' }, JSON.stringify(example(body), null, 2)) : undefined;
  const answer = node('pre', { hidden: '' });
  const send = async () => {
    let target = path;
    const query = new URLSearchParams();
    for (const [parameter, input] of inputs) {
      if (parameter.in === 'path') target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.append(parameter.name, input.value);
    }
    const headers = {};
    const token = document.getElementById('token').value.trim();
    if (token) headers.authorization = `Bearer ${token}`;
    if (area) headers['content-type'] = 'application/json';
    answer.hidden = false;
    answer.textContent = '…';
    try {
      const url = query.size ? `${target}?${query}` : target;
      const response = await fetch(url, { method: verb.toUpperCase(), headers, body: area?.value });
      answer.textContent = `${response.status} ${response.statusText}\n`;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done && answer.textContent.length < 100000; part = await reader.read()) {
        answer.textContent += part.value;
      }
      await reader.cancel();
    } catch (error) {
      answer.textContent = String(error);
    }
  };
  return node('div', {},
    ...inputs.map(([parameter, input]) => node('div', {}, node('label', {}, `${parameter.name} `, input))),
    area, node('button', { type: 'button', onclick: send }, 'Send'), answer);
};

const show = (path, verb, operation) => {
  const more = node('div', { class: 'more' });
  const item = node('details', {},
    node('summary', {}, node('span', { class: 'verb' }, verb.toUpperCase()), node('span', { class: 'path' }, path), ' ',
      node('span', { class: 'quiet' }, text(operation.summary))), more);
  item.dataset.text = `${verb} ${path} ${operation.operationId} ${operation.summary}`.toLowerCase();
  item.addEventListener('toggle', () => {
    if (!item.open || more.childNodes.length) return;
    const body = operation.requestBody?.content['application/json']?.schema;
    const content = operation.responses['200'].content;
    more.append(
      ...text(operation.description).split('\n\n').map((paragraph) => node('p', {}, paragraph)),
      ...[
        rows('parameter', operation.parameters.map((p) => [p.name, kind(p.schema), p.description])),
        body && fields('body', body),
        node('p', { class: 'quiet' }, `Answers ${Object.keys(content).join(' or ')}`),
        fields('answer', Object.values(content)[0].schema),
        attempt(verb, path, operation, body),
      ].filter(Boolean));
  });
  return item;
};

const start = async () => {
  description = await (await fetch('/openapi.json')).json();
  document.getElementById('version').textContent = description.info.version;
  document.getElementById('about').textContent = text(description.info.description);
  const main = document.getElementById('operations');
  for (const tag of description.tags) {
    const items = Object.entries(description.paths).flatMap(([path, verbs]) => Object.entries(verbs)
      .filter(([, operation]) => operation.tags.includes(tag.name))
      .map(([verb, operation]) => show(path, verb, operation)));
    if (items.length) main.append(node('section', {}, node('h2', {}, tag.name), node('p', {}, text(tag.description)), ...items));
  }
  main.removeAttribute('aria-busy');
  document.getElementById('find').addEventListener('input', (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const item of main.querySelectorAll('details')) item.hidden = !item.dataset.text.includes(wanted);
  });
};

start().catch((error) => { document.getElementById('operations').textContent = `The reference cannot be shown: ${error}`; });
