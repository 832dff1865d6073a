// What scenarios ask of the openai package of Node. The README's snippet, which makes `client`, stands
// before this. What came of it is written as JSON, one value a line.
const [task, option] = process.argv.slice(1);
const tell = (value) => console.log(JSON.stringify(value));
const question = { model: "m", input: "Say hello", stream: true };
const { toFile } = await import("openai");

async function ask(options) {
  for await (const event of await client.responses.create(question, options)) {
    tell(event.type);
    if (event.type === "response.completed") tell(event.response.output[0].content[0].text);
    if (task === "leave in the response") break;
  }
}

async function upload() {
  const content = Buffer.alloc(Number(option) << 20, "0123456789abcdef");
  tell((await client.files.create({ file: await toFile(content, "large.bin"), purpose: "batch" })).bytes);
}

const tasks = {
  ask,
  upload,
  "ask without retries": () => ask({ maxRetries: 0 }),
  "leave while waiting": () => ask({ signal: AbortSignal.timeout(Number(option)) }),
  "leave in the response": ask,
  async chat() {
    const messages = [{ role: "user", content: "Say hello" }];
    tell((await client.chat.completions.create({ model: "m", messages })).choices[0].message.content);
  },
};
try {
  await tasks[task]();
} catch (error) {
  tell({ name: error.constructor.name, status: error.status, code: error.code, message: error.message });
}
