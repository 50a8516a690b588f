// Browsers refuse workers to pages opened from a folder (file://). There the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = `<body><script src="${new URL(url, location)}"></` + `script></body>`
      this.frame.onload = () => {
        this.inner = this.frame.contentWindow
        this.inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        this.waiting.splice(0).forEach(data => this.postMessage(data))
      }
      document.body.append(this.frame)
    }
    postMessage(data) {
      if (this.inner) this.inner.dispatchEvent(new MessageEvent("message", { data }))
      else this.waiting.push(data)
    }
    terminate() { this.frame.remove() }
  }
}
